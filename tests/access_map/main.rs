//! Maps that are made by the real programs, read by `access_map`.

mod formats;
mod rebuilds;
