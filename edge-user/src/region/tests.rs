//! The control plane of a region, in one process: real TLS over loopback, real files.

mod convergence;
mod crowd;
mod hosts;
mod joining;
mod lab;
mod outages;
mod over_etcd;
mod tunnels;
