//! The generated wire contracts.

mod options;

pub use self::options::OptionsError;

/// What the commands say to the daemon (`proto/admin.proto`).
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod admin {
    tonic::include_proto!("edge.admin.v1");
}

/// The networking part of Modal's API (`proto/modal.proto`).
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod modal {
    tonic::include_proto!("modal.client");
}

/// What the contracts have in common about a tunnel's options (`proto/tunnel.proto`).
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod tunnel {
    tonic::include_proto!("edge.tunnel.v1");
}

/// What hosts say to the gateways of their region (`proto/region.proto`).
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod region {
    tonic::include_proto!("edge.region.v1");
}
