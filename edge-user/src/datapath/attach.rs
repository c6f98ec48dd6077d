//! Where programs are attached. Links are pinned: packets flow while every daemon is down.

use std::{os::fd::BorrowedFd, path::PathBuf};

use aya::{
    Ebpf,
    pin::PinError,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, SkLookup, TcAttachType, Xdp, XdpMode,
        links::FdLink, tc::TcAttachOptions,
    },
};

use super::{Datapath, DatapathError, lock};

/// What is attached to an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkMode {
    /// `xdp_uplink` in native mode, and `tc_uplink` behind it.
    Xdp,
    /// `tc_uplink` alone.
    Tcx,
}

impl UplinkMode {
    /// As people and metrics see it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tcx => "tcx",
        }
    }
}

impl Datapath {
    /// Attaches `tc_container` to a container's host-side veth, in this thread's namespace.
    pub fn attach_container(&self, interface: &str) -> Result<(), DatapathError> {
        self.attach_tcx("tc_container", interface)
    }

    /// Attaches the uplink programs, in this thread's namespace.
    pub fn attach_uplink(&self, interface: &str, mode: UplinkMode) -> Result<(), DatapathError> {
        self.attach_tcx("tc_uplink", interface)?;
        if mode == UplinkMode::Tcx {
            return Ok(());
        }
        let attached = self.attach_xdp(interface);
        if attached.is_err() {
            self.detach(interface);
        }
        attached
    }

    /// Removes whatever this daemon attached to an interface; fine if it is gone already.
    pub fn detach(&self, interface: &str) {
        for kind in ["tcx", "xdp"] {
            let pin = self.pin(kind, interface);
            if let Err(error) = std::fs::remove_file(&pin)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(pin = %pin.display(), %error, "link stays pinned");
            }
        }
    }

    pub(super) fn attach_lookup(&self, namespace: BorrowedFd<'_>) -> Result<(), DatapathError> {
        const NAME: &str = "sk_raw_ports";
        let mut programs = lock(&self.programs);
        let refused = |source: ProgramError| DatapathError::Attach {
            program: NAME,
            target: "the network namespace".into(),
            source: Box::new(source),
        };
        // Not pinned: without the daemon there is no listener to steer to.
        program::<SkLookup>(&mut programs, NAME)?.attach(namespace).map_err(refused)?;
        Ok(())
    }

    fn attach_tcx(&self, name: &'static str, interface: &str) -> Result<(), DatapathError> {
        let mut programs = lock(&self.programs);
        let classifier = program::<SchedClassifier>(&mut programs, name)?;
        let refused = |source: ProgramError| DatapathError::Attach {
            program: name,
            target: interface.to_owned(),
            source: Box::new(source),
        };
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = classifier
            .attach_with_options(interface, TcAttachType::Ingress, order)
            .map_err(refused)?;
        let link = classifier.take_link(id).map_err(refused)?;
        let link = FdLink::try_from(link)
            .map_err(|error| DatapathError::Link(interface.to_owned(), error))?;
        self.keep(link, "tcx", interface)
    }

    fn attach_xdp(&self, interface: &str) -> Result<(), DatapathError> {
        const NAME: &str = "xdp_uplink";
        let mut programs = lock(&self.programs);
        let xdp = program::<Xdp>(&mut programs, NAME)?;
        let refused = |source: ProgramError| DatapathError::Attach {
            program: NAME,
            target: interface.to_owned(),
            source: Box::new(source),
        };
        let id = xdp.attach(interface, XdpMode::Driver).map_err(refused)?;
        let link = xdp.take_link(id).map_err(refused)?;
        let link = FdLink::try_from(link)
            .map_err(|error| DatapathError::Link(interface.to_owned(), error))?;
        self.keep(link, "xdp", interface)
    }

    fn keep(&self, link: FdLink, kind: &str, interface: &str) -> Result<(), DatapathError> {
        let path = self.pin(kind, interface);
        // A pin of the same name belongs to an interface that is gone: names are not reused
        // while an interface lives.
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(DatapathError::Pins { path, source: error.into() });
        }
        match link.pin(&path) {
            Ok(_pinned) => Ok(()),
            Err(error) => Err(DatapathError::Pins { path, source: Box::<PinError>::new(error) }),
        }
    }

    fn pin(&self, kind: &str, interface: &str) -> PathBuf {
        self.pins.join(format!("{kind}-{interface}"))
    }
}

/// A program of the object by name and type.
pub(super) fn program<'a, P>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
    program.try_into().map_err(|error| DatapathError::Program(name, Box::new(error)))
}
