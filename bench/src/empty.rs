//! Programs that do next to nothing: what the kernel asks for running any program at all. Made of a
//! few instructions and loaded by hand, so that edge's own object need not carry them.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use edge_common::verdict::Hook;

/// From `linux/bpf.h`.
const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_TEST_RUN: i32 = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Its return codes.
const TC_ACT_OK: u32 = 0;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// The loaded program.
pub(crate) struct Empty {
    program: OwnedFd,
}

/// `bpf_attr` of `BPF_PROG_LOAD`, as far as it is needed.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// `bpf_attr` of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    code: u32,
    data_len: u32,
    data_out_len: u32,
    data: u64,
    data_out: u64,
    repeat: u32,
    nanoseconds: u32,
    context_len: u32,
    context_out_len: u32,
    context: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

impl Empty {
    /// One that lets every frame pass, of the kind that a hook takes.
    pub(crate) fn passing(hook: Hook) -> io::Result<Self> {
        match hook {
            Hook::XdpUplink => Self::load(BPF_PROG_TYPE_XDP, XDP_PASS),
            Hook::TcUplink | Hook::TcContainer => Self::load(BPF_PROG_TYPE_SCHED_CLS, TC_ACT_OK),
        }
    }

    /// One that drops every frame, in XDP.
    pub(crate) fn dropping() -> io::Result<Self> {
        Self::load(BPF_PROG_TYPE_XDP, XDP_DROP)
    }

    /// One that writes so many of a frame's first bytes anew and lets it pass, in XDP: frames are
    /// used again, and what they met has changed those of the last round.
    pub(crate) fn renewing(frame: &[u8], bytes: usize) -> io::Result<Self> {
        let words = frame[..bytes].as_chunks::<2>().0;
        let stores = (0..).step_by(2).zip(words.iter().copied().map(u16::from_ne_bytes));
        let bytes = words.len() as u64 * 2;
        // r2 = data; r3 = data_end; r4 = r2 + bytes; if r4 > r3 goto the end
        let mut instructions = vec![
            0x61 | 2 << 8 | 1 << 12,
            0x61 | 3 << 8 | 1 << 12 | 4 << 16,
            0xbf | 4 << 8 | 2 << 12,
            0x07 | 4 << 8 | bytes << 32,
            0x2d | 4 << 8 | 3 << 12 | (bytes / 2) << 16,
        ];
        // *(u16 *)(r2 + at) = word
        instructions.extend(
            stores.map(|(at, word): (u64, _)| 0x6a | 2 << 8 | at << 16 | u64::from(word) << 32),
        );
        Self::of(BPF_PROG_TYPE_XDP, XDP_PASS, instructions)
    }

    fn load(kind: u32, code: u32) -> io::Result<Self> {
        Self::of(kind, code, Vec::new())
    }

    fn of(kind: u32, code: u32, mut instructions: Vec<u64>) -> io::Result<Self> {
        // r0 = code; exit
        instructions.extend([0xb7 | u64::from(code) << 32, 0x95]);
        let load = Load {
            kind,
            instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        let fd = bpf(BPF_PROG_LOAD, &mut { load })?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self { program: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Mean time of one run (`BPF_PROG_TEST_RUN`).
    pub(crate) fn test_run(&self, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        let mut run = Run { repeat, ..self.over(frame)? };
        bpf(BPF_PROG_TEST_RUN, &mut run)?;
        Ok(Duration::from_nanos(run.nanoseconds.into()))
    }

    /// Runs it over so many copies of a frame, as if they came in by an interface of this thread's
    /// namespace: they really go where it sends them.
    pub(crate) fn live_frames(
        &self,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
        batch: u32,
    ) -> io::Result<()> {
        // `xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = [0, length(frame)?, 0, ifindex, 0, 0];
        let mut run = Run {
            repeat,
            context: context.as_ptr() as u64,
            context_len: u32::try_from(size_of_val(&context)).map_err(io::Error::other)?,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch,
            ..self.over(frame)?
        };
        bpf(BPF_PROG_TEST_RUN, &mut run).map(drop)
    }

    fn over(&self, frame: &[u8]) -> io::Result<Run> {
        Ok(Run {
            program: self.program.as_raw_fd().cast_unsigned(),
            data: frame.as_ptr() as u64,
            data_len: length(frame)?,
            ..Run::default()
        })
    }
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are the head of the kernel's union for this command, as long as is
    // said, and every pointer in them is to memory that outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(result).unwrap_or(-1))
    }
}
