//! Whom a machine's containers belong to: a region of this machine alone, or one of several.

use std::{net::Ipv6Addr, sync::Arc};

use super::{
    member::{CallError, Known, Member},
    proxy::Membership,
    roster::ContainerRecord,
    tunnel::Container,
    workspaces::{WorkspaceError, Workspaces},
};

/// The region of a machine.
pub enum Affiliation {
    /// This machine alone.
    Alone(Workspaces),
    /// Others, too.
    Member(Arc<Member>),
}

/// What a container is to its workspace.
#[derive(Debug, Clone)]
pub struct Tenancy {
    /// The workspace's id.
    pub workspace_id: u32,
    /// Whether it may talk to the others of it that may.
    pub private: bool,
    /// Its proxy, if it has one.
    pub proxy: Option<Membership>,
}

/// Why the region does not take a container.
#[derive(Debug, thiserror::Error)]
pub enum AffiliationError {
    /// The name of its workspace will not do.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The gateways said no, or none can be reached.
    #[error(transparent)]
    Region(#[from] CallError),
}

impl Affiliation {
    /// The id of a workspace.
    ///
    /// # Errors
    /// If its name will not do, or it is unknown here and no gateway can be reached.
    pub async fn workspace(&self, name: &str) -> Result<u32, AffiliationError> {
        match self {
            Self::Alone(workspaces) => Ok(workspaces.id(name).await?),
            Self::Member(member) => Ok(member.workspace(name).await?),
        }
    }

    /// Makes a container known.
    ///
    /// # Errors
    /// If another one of its workspace has its name.
    pub async fn put(&self, container: &Container, about: Tenancy) -> Result<(), CallError> {
        let Self::Member(member) = self else { return Ok(()) };
        let record = ContainerRecord {
            id: container.id.clone(),
            name: container.name.clone(),
            workspace: container.workspace.clone(),
            workspace_id: about.workspace_id,
            host: member.host(),
            ipv4: container.ipv4,
            i6pn: container.i6pn,
            private: about.private,
            proxy: about.proxy,
        };
        if member.put_container(record).await? == Known::Later {
            let (id, name) = (&container.id, &container.name);
            tracing::info!(
                id,
                name,
                "the region hears of a container when a gateway can be reached"
            );
        }
        Ok(())
    }

    /// A container has ended.
    pub async fn delete(&self, id: &str) {
        let Self::Member(member) = self else { return };
        if let Err(error) = member.delete_container(id).await {
            tracing::warn!(%error, id, "the region does not let go of a container");
        }
    }

    /// This machine's number, if it has one among others.
    pub fn host(&self) -> Option<u16> {
        match self {
            Self::Alone(_) => None,
            Self::Member(member) => Some(member.host()),
        }
    }

    /// The private address of a container of this workspace on another machine, as far as that is
    /// known.
    pub fn peer(&self, workspace: &str, name: &str) -> Option<Ipv6Addr> {
        let Self::Member(member) = self else { return None };
        let view = member.view().borrow().clone();
        let is_it = |one: &&Arc<ContainerRecord>| {
            one.private && one.workspace == workspace && one.name == name
        };
        view.containers.values().find(is_it).map(|one| one.i6pn)
    }

    /// Whether [`Affiliation::peer`] knows all there are.
    pub fn knows_peers(&self) -> bool {
        match self {
            Self::Alone(_) => true,
            Self::Member(member) => member.view().borrow().revision > 0,
        }
    }
}
