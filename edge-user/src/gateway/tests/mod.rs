//! What the gateway promises, tried end to end in one process.

mod bounds;
mod certificates;
mod hello;
mod http2;
mod lab;
mod pages;
mod raw_ports;
mod relaying;
mod sessions;
