//! What a host asks of its region.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use backon::{ConstantBuilder, Retryable as _};
use ipnet::Ipv4Net;
use tonic::transport::Channel;

use super::{CallError, Inner, Link, Member, channel};
use crate::{
    region::{
        cluster::ClusterRecord,
        clusters::Wanted,
        convert,
        proxy::Traffic,
        roster::{ContainerRecord, TunnelRecord},
        tunnel::TunnelOptions,
    },
    wire::region::{
        DeleteContainerRequest, EndMemberRequest, JoinClusterRequest, LeaseBlockRequest,
        ProxyTrafficRequest, PutContainerRequest, RefuseShareRequest, ReturnBlockRequest,
        StartTunnelRequest, StopTunnelRequest, TakeShareRequest, WorkspaceRequest,
        region_client::RegionClient,
    },
};

/// Whether the region knows of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It does.
    Now,
    /// It will when a gateway can be reached.
    Later,
}

/// Between a call that found no gateway and the next.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// Makes a call, and makes it so often again while no gateway answers.
///
/// # Errors
/// The last call's.
pub async fn patiently<T, F>(times: usize, call: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let pauses = ConstantBuilder::default().with_delay(AGAIN).with_max_times(times);
    call.retry(pauses).when(|error| matches!(error, CallError::Unavailable(_))).await
}

impl Member {
    /// Makes a container of this machine known, now or as soon as a gateway can be reached; its
    /// name is its own only when the region knows.
    ///
    /// # Errors
    /// [`CallError::Refused`] if its name is taken; then it is not remembered.
    pub async fn put_container(&self, container: ContainerRecord) -> Result<Known, CallError> {
        let id = container.id.clone();
        // First remembered, then told: a session that begins in between finds it.
        self.inner.containers().insert(id.clone(), container.clone());
        let told = self.inner.put(&container).await;
        if matches!(told, Err(CallError::Refused { .. })) {
            self.inner.containers().remove(&id);
        }
        later(told)
    }

    /// A container of this machine has ended, and its tunnels with it.
    ///
    /// # Errors
    /// [`CallError::Refused`] for one of another host.
    pub async fn delete_container(&self, id: &str) -> Result<Known, CallError> {
        self.inner.containers().remove(id);
        self.inner.refused.send_if_modified(|refused| refused.remove(id).is_some());
        later(self.inner.delete(id).await)
    }

    /// A block of the region's pool for containers of this machine. The view shows it soon
    /// after, among the blocks of this host.
    ///
    /// # Errors
    /// [`CallError::Refused`] if none is left, [`CallError::Unavailable`].
    pub async fn lease_block(&self) -> Result<Ipv4Net, CallError> {
        let answer = self.inner.client()?.lease_block(LeaseBlockRequest {}).await?.into_inner();
        Ok(convert::parse("block", &answer.block)?)
    }

    /// Gives a block back that no container has an address of.
    ///
    /// # Errors
    /// [`CallError::Refused`], [`CallError::Unavailable`].
    pub async fn return_block(&self, block: Ipv4Net) -> Result<(), CallError> {
        let request = ReturnBlockRequest { block: block.to_string() };
        self.inner.client()?.return_block(request).await?;
        Ok(())
    }

    /// The id of a workspace. Asked for once only, so that it is known without a gateway too.
    ///
    /// # Errors
    /// [`CallError::Refused`] for a bad name, [`CallError::Unavailable`].
    pub async fn workspace(&self, name: &str) -> Result<u32, CallError> {
        if let Some(id) = self.inner.workspaces().get(name) {
            return Ok(*id);
        }
        let request = WorkspaceRequest { name: name.to_owned() };
        let id = self.inner.client()?.workspace(request).await?.into_inner().id;
        self.inner.workspaces().insert(name.to_owned(), id);
        self.inner.remember().await;
        Ok(id)
    }

    /// Makes a port of a container of this machine public; when this returns, clients are let
    /// in. Who may take over whose tunnel is for the host to say before.
    ///
    /// # Errors
    /// [`CallError::Refused`], [`CallError::Unavailable`].
    pub async fn start_tunnel(
        &self,
        container: &str,
        port: u16,
        options: &TunnelOptions,
    ) -> Result<TunnelRecord, CallError> {
        let request = StartTunnelRequest {
            container: container.to_owned(),
            port: port.into(),
            options: Some(convert::options(options)),
        };
        let answer = self.inner.client()?.start_tunnel(request).await?.into_inner();
        Ok(convert::read_tunnel(&answer.tunnel.unwrap_or_default())?)
    }

    /// Ends a tunnel. Answers whether there was one.
    ///
    /// # Errors
    /// [`CallError::Refused`], [`CallError::Unavailable`].
    pub async fn stop_tunnel(&self, container: &str, port: u16) -> Result<bool, CallError> {
        let request = StopTunnelRequest { container: container.to_owned(), port: port.into() };
        Ok(self.inner.client()?.stop_tunnel(request).await?.into_inner().existed)
    }

    /// Lets containers of this machine join a cluster; it need not be whole when this returns.
    ///
    /// # Errors
    /// [`CallError::Refused`] if they do not fit, [`CallError::Unavailable`].
    pub async fn join_cluster(
        &self,
        wanted: &Wanted,
        containers: Vec<String>,
    ) -> Result<ClusterRecord, CallError> {
        let Wanted { name, size, cluster, launch } = wanted.clone();
        let request = JoinClusterRequest { name, size: size.into(), containers, launch, cluster };
        let answer = self.inner.client()?.join_cluster(request).await?.into_inner();
        Ok(convert::read_cluster(answer.cluster.unwrap_or_default())?)
    }

    /// A member of a cluster has ended: well, or for a reason.
    ///
    /// # Errors
    /// [`CallError::Refused`] for one of another host, [`CallError::Unavailable`].
    pub async fn end_member(
        &self,
        container: &str,
        failure: Option<&str>,
    ) -> Result<(), CallError> {
        let (container, failure) = (container.to_owned(), failure.map(str::to_owned));
        self.inner.client()?.end_member(EndMemberRequest { container, failure }).await?;
        Ok(())
    }

    /// Takes on the members of a cluster that this machine is to start; answers what they are. The
    /// same taker again is the same call again.
    ///
    /// # Errors
    /// [`CallError::Refused`] if there are none (any more), or another daemon of this machine has
    /// taken them on, [`CallError::Unavailable`].
    pub async fn take_share(&self, cluster: &str, taker: u64) -> Result<Vec<u8>, CallError> {
        let request = TakeShareRequest { cluster: cluster.to_owned(), taker };
        Ok(self.inner.client()?.take_share(request).await?.into_inner().launch)
    }

    /// This machine does not start the members that it is asked for.
    ///
    /// # Errors
    /// [`CallError::Unavailable`].
    pub async fn refuse_share(&self, cluster: &str, why: &str) -> Result<(), CallError> {
        let request = RefuseShareRequest { cluster: cluster.to_owned(), why: why.to_owned() };
        self.inner.client()?.refuse_share(request).await?;
        Ok(())
    }

    /// What went under the addresses that a gateway serves, of those proxies that this machine
    /// knows; asked of that gateway itself, whichever serves this machine.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] if it does not answer.
    pub async fn proxy_traffic(
        &self,
        gateway: u16,
    ) -> Result<BTreeMap<Ipv4Addr, Traffic>, CallError> {
        let mut client = self.inner.client_of(gateway).await?;
        let answer = client.proxy_traffic(ProxyTrafficRequest {}).await?.into_inner();
        Ok(answer.addresses.iter().map(convert::read_traffic).collect::<Result<_, _>>()?)
    }
}

impl Inner {
    /// A certain gateway.
    async fn client_of(&self, gateway: u16) -> Result<RegionClient<Channel>, CallError> {
        let known = self.view.borrow().hosts.get(&gateway).cloned();
        let endpoints = known.map_or_else(Vec::new, |host| host.record.about.control.clone());
        if let Link::Connected { gateway, client } = &*self.link.borrow()
            && endpoints.contains(gateway)
        {
            return Ok(client.clone());
        }
        let mut why = format!("it is not known where gateway {gateway} is");
        for endpoint in endpoints {
            match channel::connect(&endpoint, self.tls.clone()).await {
                Ok(client) => return Ok(client),
                Err(error) => why = error,
            }
        }
        Err(CallError::Unavailable(why))
    }

    /// The gateway that serves this machine.
    pub(super) fn client(&self) -> Result<RegionClient<Channel>, CallError> {
        match &*self.link.borrow() {
            Link::Connected { client, .. } => Ok(client.clone()),
            Link::Away { why, .. } => Err(CallError::Unavailable(why.clone())),
        }
    }

    pub(super) async fn put(&self, container: &ContainerRecord) -> Result<(), CallError> {
        let container = Some(convert::container(container));
        self.client()?.put_container(PutContainerRequest { container }).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, id: &str) -> Result<(), CallError> {
        let request = DeleteContainerRequest { id: id.to_owned() };
        self.client()?.delete_container(request).await?;
        Ok(())
    }
}

fn later(told: Result<(), CallError>) -> Result<Known, CallError> {
    match told {
        Ok(()) => Ok(Known::Now),
        Err(CallError::Unavailable(_)) => Ok(Known::Later),
        Err(error) => Err(error),
    }
}
