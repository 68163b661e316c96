// SPDX-License-Identifier: GPL-2.0

//! Debuggers of a process that has pages on the device: they read and write its memory, and have it
//! dump core.

use std::ffi::c_long;
use std::io::{IoSlice, IoSliceMut};
use std::path::PathBuf;

use dmirror_client::{Child, fork_child};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::raise;
use nix::sys::uio::RemoteIoVec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::sys::{ptrace, uio};
use nix::unistd::Pid;

use super::huge::huge;
use super::observers::{from_outside, words_are};
use crate::buffer::Buffer;
use crate::prelude::*;

cases! { "debugger":
    peek = "A debugger reads words of resident pages of the process that it traces.",
    poke = "A debugger writes words of resident pages, and the process finds them and its own data around.",
    poke_read_only = "A debugger writes to resident pages that the process may only read.",
    own_mem = "A process reads and writes its own resident pages through /proc/self/mem.",
    both_sides = "process_vm_readv and process_vm_writev work when pages on both sides are resident.",
    core_file = "A core file holds the data of resident pages."
        => |context: &Context| dumped(context, PAGES, "core", Signal::SIGQUIT, str::to_owned),
    core_pipe = "A core that goes to a program holds the data of resident pages.",
    huge_from_outside = "Another process reads and writes inside of a huge page that went to the device.",
    core_huge = "A core file holds the data of huge pages that went to the device.",
}

const PAGES: usize = 16;

/// A child process with memory that is resident when the child stops.
struct Traced {
    child: Child,
    pid: Pid,
    /// The memory at the address that it has in the child, but with other pages.
    memory: Memory,
}

/// Forks a child that moves the same memory out and stops, traced. The child runs `after` when it
/// goes on.
fn traced(context: &Context, after: impl FnOnce(&Memory) -> Result<()>) -> Result<Traced> {
    let memory = Memory::new(PAGES)?;
    let stop = || -> Result<()> {
        memory.refill(2); // pages of its own
        memory.out(&context.open()?)?;
        ptrace::traceme()?;
        raise(Signal::SIGSTOP)?;
        after(&memory)
    };
    let child = fork_child(|| match stop() {
        Ok(()) => 0,
        Err(error) => {
            println!("in the traced process: {error:#}");
            1
        }
    })?;
    let pid = Pid::from_raw(child.pid());
    match waitpid(pid, Some(WaitPidFlag::WUNTRACED))? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(Traced { child, pid, memory }),
        WaitStatus::Exited(..) => skip("a process may not trace another one here"),
        status => bail!("the traced process did not stop, but: {status:?}"),
    }
}

impl Traced {
    fn at(&self, page: usize, word: usize) -> ptrace::AddressType {
        let start = self.memory.region.addr() as usize;
        (start + page * page_size() + word * 8) as ptrace::AddressType
    }

    fn read(&self, page: usize, word: usize) -> Result<u64> {
        Ok(ptrace::read(self.pid, self.at(page, word))? as u64)
    }

    fn write(&self, page: usize, word: usize, value: u64) -> Result<()> {
        let at = self.at(page, word);
        Ok(ptrace::write(self.pid, at, value as c_long)?)
    }

    fn go_on(self) -> Result<()> {
        ptrace::detach(self.pid, None)?;
        equal("the traced process", self.child.wait()?, Exit::Status(0))
    }
}

fn peek(context: &Context) -> Result<()> {
    let traced = traced(context, Memory::intact)?;
    let data = traced.memory.data().round(2);
    for page in 0..PAGES {
        for word in [0, 77, 511] {
            let what = format!("page {page}, word {word}");
            equal(&what, traced.read(page, word)?, data.word(page, word))?;
        }
    }
    traced.go_on()
}

/// Checks that a debugger has written one word of each page, and that no other word changed.
fn poked(memory: &Memory) -> Result<()> {
    let (old, fresh) = (memory.data(), memory.data().round(3));
    words_are(memory, |word| if word == 33 { fresh } else { old })
}

fn poke(context: &Context) -> Result<()> {
    let traced = traced(context, poked)?;
    for page in 0..PAGES {
        traced.write(page, 33, traced.memory.data().round(3).word(page, 33))?;
    }
    traced.go_on()
}

fn poke_read_only(context: &Context) -> Result<()> {
    let traced = traced(context, |memory| {
        memory.region.protect(memory.all(), Protection::Read)?;
        memory.out(&context.open()?)?;
        raise(Signal::SIGSTOP)?;
        poked(memory)
    })?;
    ptrace::cont(traced.pid, None)?;
    waitpid(traced.pid, Some(WaitPidFlag::WUNTRACED))?;
    // Force the writes, as debuggers do for break points in program text.
    for page in 0..PAGES {
        let value = traced.memory.data().round(3).word(page, 33);
        let written = traced.write(page, 33, value);
        written.with_context(|| format!("page {page}"))?;
        equal("read again", traced.read(page, 33)?, value)?;
    }
    traced.go_on()
}

fn own_mem(device: Device) -> Result<()> {
    let memory = Memory::resident(&device, PAGES)?;
    let file = memory_of("self")?;
    let mut bytes = vec![0; memory.region.len()];
    file.read_exact_at(&mut bytes, memory.region.addr())?;
    memory.data().check_bytes(&bytes, 0)?;
    memory.out(&device)?;
    for page in memory.all() {
        let word = memory.data().round(3).word(page, 33).to_ne_bytes();
        let offset = (page * page_size() + 33 * 8) as u64;
        file.write_all_at(&word, memory.region.addr() + offset)?;
    }
    poked(&memory)
}

fn both_sides(context: &Context) -> Result<()> {
    let device = context.open()?;
    let theirs = Memory::resident(&device, PAGES)?;
    let (base, len) = (theirs.region.addr() as usize, theirs.region.len());
    from_outside(|parent| {
        let device = context.open()?;
        let mut own = Buffer::new(PAGES, 9);
        let remote = [RemoteIoVec { base, len }];
        own.move_out(&device, 9)?;
        let mut to = [IoSliceMut::new(own.bytes_mut())];
        let read = uio::process_vm_readv(parent, &mut to, &remote)?;
        equal("bytes read", read, len)?;
        theirs.data().check_bytes(own.bytes(), 0)?;
        own.refill_there(&device, 9)?;
        let from = [IoSlice::new(own.bytes())];
        let written = uio::process_vm_writev(parent, &from, &remote);
        equal("bytes written", written, Ok(len))
    })?;
    crate::buffer::is_content("written", &theirs.region.to_bytes(theirs.all()), 9)
}

fn huge_from_outside(device: Device) -> Result<()> {
    let memory = huge(2)?;
    let file = memory_of("self")?;
    let size = page_size();
    let mut bytes = vec![0; 3 * size];
    // Begin across the border of two huge pages, then in the middle of one.
    let last = memory.region.pages() / 2 - 1;
    for first in [last, last / 2] {
        let addr = memory.region.addr() + (first * size) as u64;
        memory.out(&device)?;
        let (base, len) = (addr as usize, bytes.len());
        let mut to = [IoSliceMut::new(&mut bytes)];
        let read = uio::process_vm_readv(Pid::this(), &mut to, &[RemoteIoVec { base, len }])?;
        equal("bytes read", read, len)?;
        memory.data().check_bytes(&bytes, first)?;
        memory.out(&device)?;
        file.write_all_at(&bytes, addr)?;
        memory.intact()?;
    }
    Ok(())
}

/// Sets the pattern for the names of cores until the value is dropped.
fn cores_to(pattern: &str) -> Result<Setting> {
    if !is_root() {
        return skip("needs root");
    }
    Setting::new("/proc/sys/kernel/core_pattern", pattern)
}

/// A file that is removed on drop.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("dmirror-{name}-{}", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a child with `memory` on the device dump core to `core`, after a call of `before`.
fn dump(
    context: &Context,
    memory: &Memory,
    core: &Temporary,
    signal: Signal,
    before: impl FnOnce() -> Result<()>,
) -> Result<Vec<u8>> {
    let child = helper(|| {
        // Give the child its own pages, huge ones if the memory is for them.
        memory.region.advise(memory.all(), Advice::DontNeed)?;
        memory.refill(2);
        memory.out(&context.open()?)?;
        before()?;
        memory.expect("when the core is made", memory.all(), Where::Device)?;
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
        raise(signal)?;
        bail!("it survived {signal}")
    })?;
    equal("the child", child.exit()?, Exit::Signal(signal))?;
    // A program that takes a core may still be at work when the child is gone.
    let mut before = 0;
    for _ in 0..200 {
        let length = fs::metadata(&core.0).map_or(0, |data| data.len());
        if length > 0 && length == before {
            break;
        }
        before = length;
        thread::sleep(Duration::from_millis(100));
    }
    fs::read(&core.0).with_context(|| format!("no core in {}", core.0.display()))
}

/// Returns the bytes of the core from `addr` to the end of its segment.
fn segment(core: &[u8], addr: u64) -> Result<&[u8]> {
    let number = |at: usize, len: usize| -> Result<u64> {
        let bytes = core.get(at..at + len).context("the core is cut off")?;
        let mut word = [0; 8];
        word[..len].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(word))
    };
    let is_elf = core.starts_with(b"\x7fELF\x02\x01");
    ensure!(is_elf, "no ELF file of 64 bits");
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum. Elf64_Phdr: p_type, p_offset,
    // p_vaddr, p_filesz.
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for nth in 0..count {
        let header = (headers + nth * size) as usize;
        let (kind, offset) = (number(header, 4)?, number(header + 8, 8)?);
        let (start, length) = (number(header + 16, 8)?, number(header + 32, 8)?);
        if kind == 1 && (start..start + length).contains(&addr) {
            let (from, to) = (offset + (addr - start), offset + length);
            let bytes = core.get(from as usize..to as usize);
            return bytes.context("the core is cut off");
        }
    }
    bail!("no segment of the core holds {addr:#x}")
}

fn check_core(core: &[u8], memory: &Memory) -> Result<()> {
    let bytes = segment(core, memory.region.addr())?;
    ensure!(bytes.len() >= memory.region.len(), "the segment is short");
    let (data, bytes) = (memory.data().round(2), &bytes[..memory.region.len()]);
    data.check_bytes(bytes, 0).context("in the core")
}

/// Makes a signal dump memory, with the core pattern that `pattern` makes for a path, and checks
/// the core.
pub(super) fn dumped(
    context: &Context,
    pages: usize,
    name: &str,
    signal: Signal,
    pattern: impl Fn(&str) -> String,
) -> Result<()> {
    let memory = Memory::new(pages)?;
    let core = Temporary::new(name);
    let _pattern = cores_to(&pattern(&core.0.display().to_string()))?;
    check_core(&dump(context, &memory, &core, signal, || Ok(()))?, &memory)?;
    memory.intact()
}

fn core_pipe(context: &Context) -> Result<()> {
    let mut programs = ["/bin/dd", "/usr/bin/dd"].into_iter();
    let Some(dd) = programs.find(|dd| fs::exists(dd).unwrap_or(false)) else {
        return skip("there is no program dd");
    };
    let pattern = |path: &str| format!("|{dd} of={path}");
    dumped(context, PAGES, "piped-core", Signal::SIGQUIT, pattern)
}

fn core_huge(context: &Context) -> Result<()> {
    let memory = huge(1)?;
    let core = Temporary::new("huge-core");
    let _pattern = cores_to(&core.0.display().to_string())?;
    let bytes = dump(context, &memory, &core, Signal::SIGQUIT, || Ok(()))?;
    if zeros("it", segment(&bytes, memory.region.addr())?).is_ok() {
        // The same page, with its entry split, is in a core. So the device provides the data, but
        // the kernel does not ask for it: no_page_table in mm/gup.c mistakes an entry for a huge
        // page that is not present for a hole.
        fs::remove_file(&core.0)?;
        let split = || {
            memory.region.protect(0..1, Protection::Read)?;
            Ok(memory.region.protect(0..1, Protection::ReadWrite)?)
        };
        let bytes = dump(context, &memory, &core, Signal::SIGQUIT, split)?;
        check_core(&bytes, &memory).context("with the entry split")?;
        return known("its cores have holes for huge pages on a device");
    }
    check_core(&bytes, &memory)?;
    memory.expect("of the parent", memory.all(), Where::System)?;
    memory.intact()
}
