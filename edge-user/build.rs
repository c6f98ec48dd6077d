//! Compiles the wire contracts; `protox` needs no `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let shared = protox::compile(["proto/tunnel.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(shared)?;
    let contracts = ["proto/admin.proto", "proto/modal.proto", "proto/region.proto"];
    let files = protox::compile(contracts, ["proto"])?;
    tonic_prost_build::configure()
        .extern_path(".edge.tunnel.v1", "crate::wire::tunnel")
        .compile_fds(files)?;
    Ok(())
}
