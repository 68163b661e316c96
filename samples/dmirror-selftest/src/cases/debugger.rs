// SPDX-License-Identifier: GPL-2.0

//! What debuggers do with a process that has pages on the device: they read and
//! write its memory, and have it dump core.

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
use crate::buffer::Buffer;
use crate::prelude::*;

cases! { "debugger":
    peek = "A debugger reads words of resident pages of the process that it traces.",
    poke = "A debugger writes words of resident pages, and the process finds them and its own data around.",
    poke_read_only = "A debugger writes to resident pages that the process may only read.",
    own_mem = "A process reads and writes its own resident pages through /proc/self/mem.",
    both_sides = "process_vm_readv and process_vm_writev work when pages on both sides are resident.",
    core_file = "A core file holds the data of resident pages.",
    core_pipe = "A core that goes to a program holds the data of resident pages.",
    huge_from_outside = "Another process reads and writes inside of a huge page that went to the device.",
    core_huge = "A core file holds the data of huge pages that went to the device.",
}

const PAGES: usize = 16;

/// A child process with memory that is resident when the child stops.
struct Traced {
    child: Child,
    pid: Pid,
    /// As the child has it, at the same address, but not its pages.
    memory: Memory,
}

/// Forks a child that moves the same memory out and stops, traced; `after` is
/// what it does when it goes on.
fn traced(context: &Context, after: impl FnOnce(&Memory) -> Result<()>) -> Result<Traced> {
    let memory = Memory::new(PAGES)?;
    let stop = || -> Result<()> {
        let device = context.open()?;
        memory.refill(2); // pages of its own
        memory.move_out(&device, memory.all())?;
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
    fn read(&self, page: usize, word: usize) -> Result<u64> {
        let at = self.memory.region.addr() as usize + page * page_size() + word * 8;
        Ok(ptrace::read(self.pid, at as ptrace::AddressType)? as u64)
    }

    fn write(&self, page: usize, word: usize, value: u64) -> Result<()> {
        let at = self.memory.region.addr() as usize + page * page_size() + word * 8;
        Ok(ptrace::write(
            self.pid,
            at as ptrace::AddressType,
            value as c_long,
        )?)
    }

    fn go_on(self) -> Result<()> {
        ptrace::detach(self.pid, None)?;
        equal("the traced process", self.child.wait()?, Exit::Status(0))
    }
}

fn peek(context: &Context) -> Result<()> {
    let traced = traced(context, |memory| memory.verify(memory.all()))?;
    let data = traced.memory.data().round(2);
    for page in 0..PAGES {
        for word in [0, 77, 511] {
            let seen = traced.read(page, word)?;
            equal(
                &format!("page {page}, word {word}"),
                seen,
                data.word(page, word),
            )?;
        }
    }
    traced.go_on()
}

/// The words that a debugger writes, and checks that they and no others changed.
fn poked(memory: &Memory) -> Result<()> {
    let words = page_size() / 8;
    for page in memory.all() {
        for word in 0..words {
            let data = memory.data();
            let data = if word == 33 { data.round(3) } else { data };
            let seen = memory.region.load(page * words + word);
            equal(
                &format!("page {page}, word {word}"),
                seen,
                data.word(page, word),
            )?;
        }
    }
    Ok(())
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
        let device = context.open()?;
        memory.move_out(&device, memory.all())?;
        raise(Signal::SIGSTOP)?;
        poked(memory)
    })?;
    ptrace::cont(traced.pid, None)?;
    waitpid(traced.pid, Some(WaitPidFlag::WUNTRACED))?;
    // As break points get into program text: by force.
    for page in 0..PAGES {
        let value = traced.memory.data().round(3).word(page, 33);
        traced
            .write(page, 33, value)
            .with_context(|| format!("page {page}"))?;
        equal("read again", traced.read(page, 33)?, value)?;
    }
    traced.go_on()
}

fn own_mem(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let file = memory_of("self")?;
    memory.move_out(&device, memory.all())?;
    let mut bytes = vec![0; memory.region.len()];
    file.read_exact_at(&mut bytes, memory.region.addr())?;
    memory.data().check_bytes(&bytes, 0)?;
    memory.move_out(&device, memory.all())?;
    for page in memory.all() {
        let word = memory.data().round(3).word(page, 33).to_ne_bytes();
        let offset = (page * page_size() + 33 * 8) as u64;
        file.write_all_at(&word, memory.region.addr() + offset)?;
    }
    poked(&memory)
}

fn both_sides(context: &Context) -> Result<()> {
    let device = context.open()?;
    let theirs = Memory::new(PAGES)?;
    theirs.move_out(&device, theirs.all())?;
    let (parent, verdict) = (Pid::this(), Gate::new()?);
    let child = helper(|| {
        let device = context.open()?;
        let mut own = Buffer::new(PAGES, 9);
        let remote = [RemoteIoVec {
            base: theirs.region.addr() as usize,
            len: theirs.region.len(),
        }];
        own.move_out(&device, 9)?;
        match uio::process_vm_readv(parent, &mut [IoSliceMut::new(own.bytes_mut())], &remote) {
            Err(Errno::EPERM | Errno::ENOSYS) => return verdict.send(1),
            answer => equal("bytes read", answer?, theirs.region.len())?,
        }
        theirs.data().check_bytes(own.bytes(), 0)?;
        own.fill(9);
        own.move_out(&device, 9)?;
        let written = uio::process_vm_writev(parent, &[IoSlice::new(own.bytes())], &remote)?;
        equal("bytes written", written, theirs.region.len())?;
        verdict.send(0)
    })?;
    child.join()?;
    if verdict.receive()? != 0 {
        return skip("a process may not look at another one here");
    }
    crate::buffer::is_content("written", &theirs.region.to_bytes(theirs.all()), 9)
}

fn huge_from_outside(device: Device) -> Result<()> {
    let memory = huge(2)?;
    let file = memory_of("self")?;
    let size = page_size();
    let mut bytes = vec![0; 3 * size];
    // Across the border of two huge pages, and in the middle of one.
    let last = memory.region.pages() / 2 - 1;
    for first in [last, last / 2] {
        let addr = memory.region.addr() + (first * size) as u64;
        memory.move_out(&device, memory.all())?;
        let remote = [RemoteIoVec {
            base: addr as usize,
            len: bytes.len(),
        }];
        let read = uio::process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut bytes)], &remote)?;
        equal("bytes read", read, bytes.len())?;
        memory.data().check_bytes(&bytes, first)?;
        memory.move_out(&device, memory.all())?;
        file.write_all_at(&bytes, addr)?;
        memory.verify(memory.all())?;
    }
    Ok(())
}

/// The setting of where cores go, put back on drop.
struct CorePattern(String);

impl CorePattern {
    const FILE: &str = "/proc/sys/kernel/core_pattern";

    fn set(pattern: &str) -> Result<Self> {
        if !is_root() {
            return skip("needs root");
        }
        let Ok(before) = fs::read_to_string(Self::FILE) else {
            return skip("the kernel writes no cores");
        };
        fs::write(Self::FILE, pattern)?;
        Ok(Self(before))
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::FILE, &self.0) {
            println!("cannot set {} again: {error}", Self::FILE);
        }
    }
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

/// Has a child with `memory` on the device dump core to `core`, after `before`.
fn dump(
    context: &Context,
    memory: &Memory,
    core: &Temporary,
    before: impl FnOnce() -> Result<()>,
) -> Result<Vec<u8>> {
    let child = helper(|| {
        let device = context.open()?;
        // Pages of its own, huge ones where the memory is for them.
        memory.region.advise(memory.all(), Advice::DontNeed)?;
        memory.refill(2);
        memory.move_out(&device, memory.all())?;
        before()?;
        memory.expect("when the core is made", memory.all(), Where::Device)?;
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
        raise(Signal::SIGQUIT)?;
        bail!("it survived SIGQUIT")
    })?;
    equal("the child", child.exit()?, Exit::Signal(Signal::SIGQUIT))?;
    // A program that takes a core may be at work when the child is gone.
    let mut before = 0;
    for _ in 0..200 {
        let length = fs::metadata(&core.0).map_or(0, |data| data.len());
        if length > 0 && length == before {
            break;
        }
        before = length;
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::read(&core.0).with_context(|| format!("no core in {}", core.0.display()))
}

/// The bytes that the core has at `addr`, from the segment's start there on.
fn segment(core: &[u8], addr: u64) -> Result<&[u8]> {
    let number = |at: usize, len: usize| -> Result<u64> {
        let bytes = core.get(at..at + len).context("the core is cut off")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    };
    ensure!(
        core.starts_with(b"\x7fELF\x02\x01"),
        "no ELF file of 64 bits"
    );
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum. Elf64_Phdr: p_type, p_offset,
    // p_vaddr, p_filesz.
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for nth in 0..count {
        let header = (headers + nth * size) as usize;
        let (kind, offset) = (number(header, 4)?, number(header + 8, 8)?);
        let (start, length) = (number(header + 16, 8)?, number(header + 32, 8)?);
        if kind == 1 && (start..start + length).contains(&addr) {
            let (from, to) = (offset + (addr - start), offset + length);
            return core
                .get(from as usize..to as usize)
                .context("the core is cut off");
        }
    }
    bail!("no segment of the core holds {addr:#x}")
}

fn check_core(core: &[u8], memory: &Memory) -> Result<()> {
    let bytes = segment(core, memory.region.addr())?;
    ensure!(bytes.len() >= memory.region.len(), "the segment is short");
    memory
        .data()
        .round(2)
        .check_bytes(&bytes[..memory.region.len()], 0)
        .context("in the core")
}

fn core_file(context: &Context) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    let core = Temporary::new("core");
    let _pattern = CorePattern::set(&core.0.display().to_string())?;
    check_core(&dump(context, &memory, &core, || Ok(()))?, &memory)?;
    memory.verify(memory.all())
}

fn core_pipe(context: &Context) -> Result<()> {
    let Some(dd) = ["/bin/dd", "/usr/bin/dd"]
        .into_iter()
        .find(|dd| fs::exists(dd).unwrap_or(false))
    else {
        return skip("there is no program dd");
    };
    let memory = Memory::new(PAGES)?;
    let core = Temporary::new("piped-core");
    let _pattern = CorePattern::set(&format!("|{dd} of={}", core.0.display()))?;
    check_core(&dump(context, &memory, &core, || Ok(()))?, &memory)?;
    memory.verify(memory.all())
}

fn core_huge(context: &Context) -> Result<()> {
    let memory = huge(1)?;
    let core = Temporary::new("huge-core");
    let _pattern = CorePattern::set(&core.0.display().to_string())?;
    let bytes = dump(context, &memory, &core, || Ok(()))?;
    if segment(&bytes, memory.region.addr())?
        .iter()
        .all(|byte| *byte == 0)
    {
        // The same page, with its entry split, is in a core. So the device gives the
        // data, and it is the kernel that does not ask: no_page_table in mm/gup.c takes
        // an entry for a huge page that is not present for a hole.
        fs::remove_file(&core.0)?;
        let split = || {
            memory.region.protect(0..1, Protection::Read)?;
            Ok(memory.region.protect(0..1, Protection::ReadWrite)?)
        };
        check_core(&dump(context, &memory, &core, split)?, &memory)
            .context("with the entry split")?;
        return known("its cores have holes for huge pages on a device");
    }
    check_core(&bytes, &memory)?;
    memory.expect("of the parent", memory.all(), Where::System)?;
    memory.verify(memory.all())
}
