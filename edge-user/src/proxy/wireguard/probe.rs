//! Whether the other end of a tunnel answers: a question and its answer that go through all of
//! WireGuard, and no further.
//!
//! Each machine has an address inside WireGuard that no interface has. What goes to it is taken out
//! between the tunnel and the kernel, at both ends, so nothing of the machines' own rules and
//! routes is asked, and nobody else can be.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gotatun::packet::Packet;

/// Between two questions while they are answered.
const ASK: Duration = Duration::from_secs(2);
/// Between two questions while one has no answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Who does not answer for so long is not there: a dozen questions, of which an overloaded way may
/// lose most.
const SILENCE: Duration = Duration::from_secs(8);

/// IP protocol numbers for experiments (RFC 3692).
const PROTOCOL: u8 = 253;
const HEADER: usize = 20;
const LENGTH: usize = HEADER + 9;

/// A question, or the answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    /// Who sends it.
    pub(super) from: Ipv4Addr,
    /// Whom it is for.
    pub(super) to: Ipv4Addr,
    /// Whether it is an answer.
    pub(super) answers: bool,
    /// What the answer repeats.
    pub(super) mark: u64,
}

/// How one end of a tunnel hears of the other. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Pulse(Arc<Mutex<Heard>>);

#[derive(Debug)]
struct Heard {
    began: Instant,
    /// When the last question went out.
    asked: Option<Instant>,
    /// When the last answer came; at first the beginning: who has not had time to answer is not
    /// silent.
    answered: Instant,
    round_trip: Option<Duration>,
}

/// The address of a machine inside WireGuard.
pub(super) fn inner(machine: u16) -> Ipv4Addr {
    let [high, low] = machine.to_be_bytes();
    Ipv4Addr::new(169, 254, high, low)
}

impl Probe {
    /// What a packet is, if it is one.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let packet: &[u8; LENGTH] = packet.try_into().ok()?;
        let address =
            |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let (from, to) = (address(12), address(16));
        let own = packet[0] == 0x45 && packet[9] == PROTOCOL;
        let (answers, mark) = packet[HEADER..].split_first()?;
        let mark = u64::from_be_bytes(mark.try_into().ok()?);
        (own && from.is_link_local() && to.is_link_local()).then_some(Self {
            from,
            to,
            answers: *answers != 0,
            mark,
        })
    }

    /// As a packet. No kernel reads it, so its header has no checksum.
    pub(super) fn packet(&self) -> Packet {
        let mut bytes = [0; LENGTH];
        bytes[0] = 0x45;
        // It is less than 256.
        bytes[3] = LENGTH as u8;
        // A time to live that passes no router.
        bytes[8] = 1;
        bytes[9] = PROTOCOL;
        bytes[12..16].copy_from_slice(&self.from.octets());
        bytes[16..20].copy_from_slice(&self.to.octets());
        bytes[HEADER] = self.answers.into();
        bytes[HEADER + 1..].copy_from_slice(&self.mark.to_be_bytes());
        Packet::copy_from(&bytes)
    }

    /// What it is answered with.
    pub(super) const fn answer(self) -> Self {
        Self { from: self.to, to: self.from, answers: true, mark: self.mark }
    }
}

impl Pulse {
    /// Of an end that was not asked yet.
    pub(super) fn new(now: Instant) -> Self {
        let heard = Heard { began: now, asked: None, answered: now, round_trip: None };
        Self(Arc::new(Mutex::new(heard)))
    }

    /// The mark of the next question, if it is time for one.
    pub(super) fn ask(&self, now: Instant) -> Option<u64> {
        let mut heard = self.heard();
        let waits = heard.asked.is_some_and(|asked| asked > heard.answered);
        let pause = if waits { ASK_AGAIN } else { ASK };
        if heard.asked.is_some_and(|asked| now.duration_since(asked) < pause) {
            return None;
        }
        heard.asked = Some(now);
        Some(heard.mark(now))
    }

    /// An answer has come.
    pub(super) fn answered(&self, mark: u64, now: Instant) {
        let mut heard = self.heard();
        heard.answered = now;
        // Those that waited for a handshake measure the wait.
        if let Some(asked) = heard.asked.filter(|asked| heard.mark(*asked) == mark) {
            heard.round_trip = Some(now.duration_since(asked));
        }
    }

    /// Whether the other end answers.
    pub(super) fn beats(&self, now: Instant) -> bool {
        now.duration_since(self.heard().answered) < SILENCE
    }

    /// How long the last answer took.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.heard().round_trip
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn mark(&self, asked: Instant) -> u64 {
        u64::try_from(asked.duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_and_its_answer_are_read_as_they_were_written() {
        let question = Probe { from: inner(258), to: inner(3), answers: false, mark: 0xfeed };
        assert_eq!(question.from, Ipv4Addr::new(169, 254, 1, 2));
        assert_eq!(Probe::read(&question.packet()), Some(question));
        let answer = question.answer();
        assert_eq!((answer.to, answer.answers, answer.mark), (inner(258), true, 0xfeed));
        assert_eq!(Probe::read(&answer.packet()), Some(answer));
    }

    #[test]
    fn what_containers_send_is_none() {
        let question = Probe { from: inner(2), to: inner(3), answers: false, mark: 1 }.packet();
        let changed = |at: usize, byte: u8| {
            let mut packet = question.to_vec();
            packet[at] = byte;
            Probe::read(&packet)
        };
        assert!(changed(HEADER, 0).is_some());
        assert_eq!(changed(12, 100), None, "of a container");
        assert_eq!(changed(16, 203), None, "to the internet");
        assert_eq!(changed(9, 17), None, "UDP");
        assert_eq!(Probe::read(&question[..LENGTH - 1]), None);
    }

    #[test]
    fn who_does_not_answer_is_asked_more_often_and_taken_for_gone_in_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let pulse = Pulse::new(start);
        let first = pulse.ask(at(0)).expect("a question");
        assert!(pulse.beats(at(7_900)), "it had no time");
        pulse.answered(first, at(3));
        assert_eq!(pulse.round_trip(), Some(Duration::from_millis(3)));
        assert_eq!(pulse.ask(at(1_900)), None);
        assert!(pulse.ask(at(2_000)).is_some());
        assert_eq!(pulse.ask(at(2_400)), None);
        let second = pulse.ask(at(2_500)).expect("a question again");
        assert!(pulse.beats(at(8_000)) && !pulse.beats(at(8_003)));
        // One that waited for long is a sign of life, and no measure.
        assert!(pulse.ask(at(9_000)).is_some());
        pulse.answered(second, at(9_500));
        assert!(pulse.beats(at(9_500)));
        assert_eq!(pulse.round_trip(), Some(Duration::from_millis(3)));
    }
}
