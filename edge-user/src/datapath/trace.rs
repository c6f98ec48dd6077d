//! Telling of decisions: the traced programs take the place of the plain ones for as long as
//! somebody listens, and not a packet is lost at either change.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, RingBuf},
    programs::{Program, ProgramError, SchedClassifier},
};
use edge_common::trace::{Event, Filter, Notes};
use nix::time::{ClockId, clock_gettime};

use super::{Datapath, DatapathError, attach, lock, tables};

/// How long the programs go on telling when nobody comes to listen: after a daemon that was killed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Events at a time.
const MOST: usize = 1024;

/// The tables of it.
pub(super) struct Tables {
    events: RingBuf<MapData>,
    filter: Array<MapData, Filter>,
    notes: PerCpuArray<MapData, Notes>,
}

/// Somebody who listens. Dropped, the plain programs are back.
pub struct Trace {
    datapath: Arc<Datapath>,
    listener: u64,
    filter: Filter,
    /// Events lost before, and those that were told of.
    lost: u64,
}

/// What was heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// In the order of each CPU.
    pub events: Vec<Event>,
    /// Whether there may be more already.
    pub more: bool,
    /// How many found no room since the last time.
    pub lost: u64,
}

impl Tables {
    /// Takes them out of the loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            events: tables::take(ebpf, "TRACE_EVENTS")?,
            filter: tables::take(ebpf, "TRACE_FILTER")?,
            notes: tables::take(ebpf, "TRACE_NOTES")?,
        })
    }

    /// Makes room for what passes a filter. Returns how many were lost before.
    fn begin(&mut self, filter: Filter) -> Result<u64, DatapathError> {
        while self.events.next().is_some() {}
        self.write(put_off(filter))?;
        self.lost()
    }

    fn write(&mut self, filter: Filter) -> Result<(), DatapathError> {
        self.filter
            .set(0, filter, 0)
            .map_err(|error| DatapathError::Table("TRACE_FILTER", Box::new(error)))
    }

    fn lost(&self) -> Result<u64, DatapathError> {
        let notes = self.notes.get(&0, 0);
        let notes = notes.map_err(|error| DatapathError::Table("TRACE_NOTES", Box::new(error)))?;
        Ok(notes.iter().map(|notes| notes.lost).sum())
    }
}

impl Datapath {
    /// Begins to tell of the decisions that pass a filter; its deadline is set here. There is one
    /// listener at a time.
    ///
    /// # Errors
    /// [`DatapathError::Listened`] if there is another one, or why the kernel refused.
    pub fn trace(self: &Arc<Self>, filter: Filter) -> Result<Trace, DatapathError> {
        let mut programs = lock(&self.programs);
        let Some(listener) = lock(&self.attached).free() else {
            return Err(DatapathError::Listened);
        };
        // The filter comes after them: on a busy machine the kernel verifies longer than its
        // deadline is off.
        let begun = load(&mut programs).and_then(|()| lock(&self.trace).begin(filter));
        let lost = begun.inspect_err(|_error| unload(&mut programs))?;
        lock(&self.attached).listener = Some(listener);
        self.switch_all(&mut programs);
        drop(programs);
        Ok(Trace { datapath: self.clone(), listener, filter, lost })
    }

    /// Ends it, whoever listens: what is attached is about to be another daemon's.
    pub fn end_trace(&self) {
        let listener = lock(&self.attached).listener;
        if let Some(listener) = listener {
            self.hush(listener);
        }
    }

    /// Puts the plain programs back, if it is this listener's that are there.
    fn hush(&self, listener: u64) {
        let mut programs = lock(&self.programs);
        {
            let mut attached = lock(&self.attached);
            if attached.listener != Some(listener) {
                return;
            }
            attached.listener = None;
        }
        self.switch_all(&mut programs);
        unload(&mut programs);
        if let Err(error) = lock(&self.trace).write(Filter::default()) {
            tracing::warn!(%error, "the trace's filter stays until its deadline");
        }
    }
}

impl Trace {
    /// What becomes readable when the ring buffer fills up. A few events do not.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn filling(&self) -> io::Result<OwnedFd> {
        lock(&self.datapath.trace).events.as_fd().try_clone_to_owned()
    }

    /// What there is to hear at the moment; none if it was ended by somebody else. To be asked
    /// every second: after ten the programs fall silent.
    ///
    /// # Errors
    /// If the kernel refuses its tables.
    pub fn hear(&mut self) -> Result<Option<Heard>, DatapathError> {
        if lock(&self.datapath.attached).listener != Some(self.listener) {
            return Ok(None);
        }
        let mut tables = lock(&self.datapath.trace);
        tables.write(put_off(self.filter))?;
        let mut heard = Heard::default();
        while heard.events.len() < MOST
            && let Some(bytes) = tables.events.next()
        {
            heard.events.extend(Event::from_bytes(&bytes));
        }
        heard.more = heard.events.len() >= MOST;
        let lost = tables.lost()?;
        heard.lost = lost.saturating_sub(self.lost);
        self.lost = lost;
        Ok(Some(heard))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.datapath.hush(self.listener);
    }
}

/// Nanoseconds of the clock that [`Event::time`] is by.
pub fn now() -> u64 {
    // This clock exists on every kernel that edge runs on.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn put_off(filter: Filter) -> Filter {
    Filter { until: now() + DEADLINE.as_nanos() as u64, ..filter }
}

/// What the kernel verifies in less than a second.
fn load(programs: &mut Ebpf) -> Result<(), DatapathError> {
    for name in attach::TCX {
        let name = attach::traced(name);
        refused(name, attach::program::<SchedClassifier>(programs, name)?.load())?;
    }
    attach::xdp(programs, attach::traced(attach::XDP)).map(drop)
}

/// They end with the last link that has them.
fn unload(programs: &mut Ebpf) {
    for name in attach::TCX.into_iter().chain([attach::XDP]).map(attach::traced) {
        // One that was not loaded has nothing to give back.
        let _not_loaded = match programs.program_mut(name) {
            Some(Program::Xdp(program)) => program.unload(),
            Some(Program::SchedClassifier(program)) => program.unload(),
            _ => Ok(()),
        };
    }
}

fn refused(name: &'static str, loaded: Result<(), ProgramError>) -> Result<(), DatapathError> {
    loaded.map_err(|error| DatapathError::Program(name, Box::new(error)))
}
