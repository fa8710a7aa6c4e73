mod phpVERSION/mailaffinity.so
mod phpVERSION/mailaffinity.ini
