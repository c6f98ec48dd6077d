//! Where programs are attached. Links are pinned: packets flow while every daemon is down.

use std::{
    collections::BTreeMap,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    pin::PinError,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, SkLookup, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};

use super::{Datapath, DatapathError, lock, pins::Pins};

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

/// The programs at TCX.
pub(super) const TCX: [&str; 2] = ["tc_uplink", "tc_container"];
/// The one at XDP.
pub(super) const XDP: &str = "xdp_uplink";

/// The program that also tells what this one decides.
pub(super) fn traced(plain: &str) -> &'static str {
    match plain {
        "tc_uplink" => "tc_uplink_traced",
        "tc_container" => "tc_container_traced",
        _ => "xdp_uplink_traced",
    }
}

/// What this daemon has attached.
#[derive(Default)]
pub(super) struct Attached {
    /// By the link's pin: the plain program's name.
    links: BTreeMap<PathBuf, &'static str>,
    /// Who listens to what the programs decide: then the traced ones are attached.
    pub(super) listener: Option<u64>,
    listeners: u64,
}

impl Attached {
    /// A number for one more listener, unless there is one.
    pub(super) fn free(&mut self) -> Option<u64> {
        self.listeners += 1;
        self.listener.is_none().then_some(self.listeners)
    }

    /// The program to attach.
    pub(super) fn variant(&self, plain: &'static str) -> &'static str {
        if self.listener.is_some() { traced(plain) } else { plain }
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

    /// Removes whatever this daemon or an earlier one attached to an interface; fine if it is gone
    /// already.
    pub fn detach(&self, interface: &str) {
        let mut pins = lock(&self.pins);
        for kind in ["tcx", "xdp"] {
            let name = Pins::name(kind, interface);
            for pin in pins.inherit(&name).into_iter().chain([pins.link(&name)]) {
                lock(&self.attached).links.remove(&pin);
                unpin(&pin);
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
        let variant = lock(&self.attached).variant(name);
        let classifier = program::<SchedClassifier>(&mut programs, variant)?;
        let refused = |source: ProgramError| DatapathError::Attach {
            program: name,
            target: interface.to_owned(),
            source: Box::new(source),
        };
        let inherited = lock(&self.pins).inherit(&Pins::name("tcx", interface));
        if let Some(pin) = &inherited {
            match switch_tcx(classifier, interface, pin) {
                Ok(link) => return self.keep(link, "tcx", interface, name, inherited),
                Err(error) => tell_anew(interface, &error),
            }
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        // Beside the old one, which goes when this one is there.
        let id = classifier
            .attach_with_options(interface, TcAttachType::Ingress, order)
            .map_err(refused)?;
        let link = classifier.take_link(id).map_err(refused)?;
        let link = FdLink::try_from(link)
            .map_err(|error| DatapathError::Link(interface.to_owned(), error))?;
        if let Some(pin) = inherited {
            unpin(&pin);
        }
        self.keep(link, "tcx", interface, name, None)
    }

    fn attach_xdp(&self, interface: &str) -> Result<(), DatapathError> {
        let mut programs = lock(&self.programs);
        let variant = lock(&self.attached).variant(XDP);
        let xdp = xdp(&mut programs, variant)?;
        let refused = |source: ProgramError| DatapathError::Attach {
            program: XDP,
            target: interface.to_owned(),
            source: Box::new(source),
        };
        let inherited = lock(&self.pins).inherit(&Pins::name("xdp", interface));
        if let Some(pin) = &inherited {
            match switch_xdp(xdp, pin) {
                Ok(link) => return self.keep(link, "xdp", interface, XDP, inherited),
                Err(error) => {
                    tell_anew(interface, &error);
                    // An interface has one XDP program.
                    unpin(pin);
                }
            }
        }
        let id = xdp.attach(interface, XdpMode::Driver).map_err(refused)?;
        let link = xdp.take_link(id).map_err(refused)?;
        let link = FdLink::try_from(link)
            .map_err(|error| DatapathError::Link(interface.to_owned(), error))?;
        self.keep(link, "xdp", interface, XDP, None)
    }

    /// Puts into each link the program that belongs there now.
    pub(super) fn switch_all(&self, programs: &mut Ebpf) {
        let links: Vec<_> = {
            let attached = lock(&self.attached);
            let variants = attached.links.iter();
            variants.map(|(pin, name)| (pin.clone(), attached.variant(name))).collect()
        };
        for (pin, name) in links {
            if let Err(error) = switch(programs, name, &pin) {
                // An interface that is just going away takes its link with it.
                let error = crate::error::causes(&error);
                tracing::warn!(pin = %pin.display(), error, "a link keeps the program that it has");
            }
        }
    }

    /// Pins a link, unless that is where it was inherited from.
    fn keep(
        &self,
        link: FdLink,
        kind: &str,
        interface: &str,
        program: &'static str,
        inherited: Option<PathBuf>,
    ) -> Result<(), DatapathError> {
        let path = lock(&self.pins).link(&Pins::name(kind, interface));
        lock(&self.attached).links.insert(path.clone(), program);
        if inherited.as_ref() == Some(&path) {
            return Ok(());
        }
        // A pin of the same name belongs to an interface that is gone: names are not reused
        // while an interface lives.
        unpin(&path);
        if let Err(error) = link.pin(&path) {
            return Err(DatapathError::Pins { path, source: Box::<PinError>::new(error) });
        }
        if let Some(old) = inherited {
            unpin(&old);
        }
        Ok(())
    }
}

/// Puts a program in the place of the one that a pinned link holds. No packet meets neither.
fn switch_tcx(
    classifier: &mut SchedClassifier,
    interface: &str,
    pin: &Path,
) -> Result<FdLink, SwitchError> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    let id = classifier.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    let link = FdLink::try_from(classifier.take_link(id)?)?;
    let own = classifier.info()?.id();
    let (_revision, there) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    // An interface may have been renamed, and another one made by its name.
    if there.iter().any(|program| program.id() == own) { Ok(link) } else { Err(SwitchError::Other) }
}

/// Puts a loaded program into a link of this daemon's own.
fn switch(programs: &mut Ebpf, name: &'static str, pin: &Path) -> Result<(), SwitchError> {
    let program = programs.program_mut(name).ok_or(SwitchError::Other)?;
    if let Program::Xdp(xdp) = program {
        verify(xdp)?;
        switch_xdp(xdp, pin)?;
        return Ok(());
    }
    let classifier: &mut SchedClassifier = program.try_into()?;
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    let id = classifier.attach_to_link(SchedClassifierLink::try_from(link)?)?;
    // Closed; the pin keeps it.
    FdLink::try_from(classifier.take_link(id)?)?;
    Ok(())
}

fn switch_xdp(xdp: &mut Xdp, pin: &Path) -> Result<FdLink, SwitchError> {
    let link = FdLink::from(PinnedLink::from_pin(pin)?);
    let id = xdp.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(FdLink::try_from(xdp.take_link(id)?)?)
}

/// Why a link of an earlier daemon is not taken up.
#[derive(Debug, thiserror::Error)]
enum SwitchError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("it belongs to another interface")]
    Other,
}

fn tell_anew(interface: &str, error: &SwitchError) {
    let error = crate::error::causes(error);
    tracing::warn!(interface, error, "an earlier daemon's link cannot be used; attaching anew");
}

fn unpin(pin: &Path) {
    if let Err(error) = std::fs::remove_file(pin)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), %error, "a link stays pinned");
    }
}

/// `xdp_uplink` or its traced variant, verified.
pub(super) fn xdp<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, DatapathError> {
    let xdp = program::<Xdp>(ebpf, name)?;
    verify(xdp).map_err(|error| DatapathError::Program(name, Box::new(error)))?;
    Ok(xdp)
}

fn verify(xdp: &mut Xdp) -> Result<(), ProgramError> {
    if xdp.fd().is_ok() { Ok(()) } else { xdp.load() }
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
