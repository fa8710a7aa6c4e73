//! Against a live Director of Dovecot, and against answers captured from several
//! (README.md says how).

mod authentication;
mod captures;
mod from_director;
mod live;
mod state;
mod update;
