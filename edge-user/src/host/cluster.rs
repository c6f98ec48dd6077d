//! What a member of a cluster finds in its environment: what PyTorch, NCCL and gloo read, and the
//! addresses of all members in the order of their ranks.

use crate::region::{
    cluster::{ClusterMember, ClusterRecord},
    tunnel::Container,
};

/// Where rank 0 listens: torchrun's own choice. Each container has all ports for itself.
const MASTER_PORT: u16 = 29500;
/// What `edge run` calls a container's interface.
const INTERFACE: &str = "eth0";

/// The environment of the member with this rank.
pub fn environment(
    cluster: &ClusterRecord,
    rank: usize,
    container: &Container,
) -> Vec<(String, String)> {
    let all = |address: fn(&ClusterMember) -> String| {
        cluster.members.iter().map(address).collect::<Vec<_>>().join(",")
    };
    let master = cluster.members.first().map(|first| first.i6pn.to_string());
    [
        ("MASTER_ADDR", master.unwrap_or_default()),
        ("MASTER_PORT", MASTER_PORT.to_string()),
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", cluster.size.to_string()),
        // By default it is made of what all containers of a machine have in common.
        ("NCCL_HOSTID", format!("{}{}", container.name, container.i6pn)),
        ("NCCL_SOCKET_IFNAME", INTERFACE.to_owned()),
        ("GLOO_SOCKET_IFNAME", INTERFACE.to_owned()),
        ("EDGE_CLUSTER", cluster.name.clone()),
        ("EDGE_CLUSTER_IPS", all(|member| member.i6pn.to_string())),
        ("EDGE_CLUSTER_IPV4_IPS", all(|member| member.ipv4.to_string())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
