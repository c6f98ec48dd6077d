//! `edge run` and the listings, from the outside: the real binary against a daemon that plays
//! its part and wires nothing. Needs root; without it every test fails.

mod comeback;
mod daemon;
mod isolation;
mod lifetime;
mod listings;
mod terminal;
