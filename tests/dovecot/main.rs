//! Against a real Dovecot that serves IMAP and LMTP.

mod probes;
