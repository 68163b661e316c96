// SPDX-License-Identifier: GPL-2.0

//! The device files, and the processes that have them open.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::node::Users;
//! use dmirror_client::node::nodes;
//!
//! for node in nodes()? {
//!     println!("{}: {:?} memory", node.path().display(), node.kind());
//! }
//! for file in Users::look()?.files {
//!     println!("{} ({}) has {} open", file.pid, file.program, file.node.name());
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::PidfdGetfdFlags;
use rustix::process::pidfd_getfd;
use rustix::process::pidfd_open;

use crate::device::Device;
use crate::stats::FileStats;

const DEV: &str = "/dev";
const PREFIX: &str = "hmm_dmirror";

/// The kind of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CPUs cannot access it.
    Private,
    /// CPUs access it like any other memory.
    Coherent,
}

/// A device file, `/dev/hmm_dmirrorN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(u32);

impl Node {
    /// Returns the device file with the number `number`, whether or not it exists.
    pub fn of_number(number: u32) -> Self {
        Self(number)
    }

    /// Returns the device file at `path`, if the path has the form of one.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.strip_prefix(DEV).ok()?.to_str()?;
        let digits = name.strip_prefix(PREFIX)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok().map(Self)).flatten()
    }

    /// Returns its number N.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Returns its name, `hmm_dmirrorN`, which is also the name of its folder in debugfs.
    pub fn name(self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// Returns its path.
    pub fn path(self) -> PathBuf {
        Path::new(DEV).join(self.name())
    }

    /// Returns the kind of its memory, which depends on the number (Documentation/abi.md).
    pub fn kind(self) -> Kind {
        if self.0 < 2 {
            Kind::Private
        } else {
            Kind::Coherent
        }
    }
}

/// Returns the existing device files, by number.
///
/// # Errors
///
/// The error of reading `/dev`.
pub fn nodes() -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(DEV)? {
        nodes.extend(Node::of_path(&entry?.path()));
    }
    nodes.sort_unstable();
    Ok(nodes)
}

/// An open device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// The process that has it open, which need not be the opener, whose memory the file is for.
    pub pid: i32,
    /// The name of that process.
    pub program: String,
    /// The descriptor.
    pub fd: i32,
    /// The device.
    pub node: Node,
    /// The process that opened it, whose memory it is for; `None` for a module that does not say.
    pub opener: Option<i32>,
    /// The name of the opener; `None` if it has ended.
    pub opener_program: Option<String>,
    /// The statistics of the file; `None` for a module that does not report them, such as test_hmm.
    pub stats: Option<FileStats>,
    /// Number of its queues.
    pub queues: u64,
    /// Time that each engine has worked for it, in nanoseconds.
    pub engine_ns: Vec<u64>,
}

impl OpenFile {
    /// Duplicates the open file, which the process keeps: commands work on the same address space,
    /// queues and advice.
    ///
    /// # Errors
    ///
    /// `ESRCH` or `EBADF` if the process or the descriptor is gone, `EPERM` if the process may not
    /// be traced.
    pub fn take_over(&self) -> io::Result<Device> {
        let process = Pid::from_raw(self.pid).ok_or(Errno::ESRCH)?;
        let pidfd = pidfd_open(process, PidfdFlags::empty())?;
        let taken = pidfd_getfd(&pidfd, self.fd, PidfdGetfdFlags::empty())?;
        let target = fs::read_link(format!("/proc/self/fd/{}", taken.as_raw_fd()))?;
        // The process may have closed the descriptor and opened another file since.
        if Node::of_path(&target) != Some(self.node) {
            return Err(Errno::EBADF.into());
        }
        Ok(Device {
            file: Arc::new(taken.into()),
        })
    }

    fn read(process: &Path, pid: i32, fd: i32, node: Node) -> io::Result<Self> {
        let info = fs::read_to_string(process.join("fdinfo").join(fd.to_string()))?;
        let program = fs::read_to_string(process.join("comm"))?;
        let mut file = Self::parse(&info, pid, program.trim_end(), fd, node);
        if let Some(opener) = file.opener {
            let name = fs::read_to_string(format!("/proc/{opener}/comm"));
            file.opener_program = name.ok().map(|name| name.trim_end().to_owned());
        }
        Ok(file)
    }

    fn parse(info: &str, pid: i32, program: &str, fd: i32, node: Node) -> Self {
        let lines = || info.lines().filter_map(|line| line.split_once(":\t"));
        let value = |wanted: &str| {
            lines()
                .find(|(key, _)| *key == wanted)
                .map(|(_, value)| value)
        };
        let engines = lines().filter(|(key, _)| key.starts_with("drm-engine-engine"));
        Self {
            pid,
            program: program.to_owned(),
            fd,
            node,
            opener: value("dmirror-opener").and_then(|pid| pid.parse().ok()),
            opener_program: None,
            stats: FileStats::parse(info).ok(),
            queues: value("dmirror-queues")
                .and_then(|number| number.parse().ok())
                .unwrap_or(0),
            engine_ns: engines
                .filter_map(|(_, value)| value.strip_suffix(" ns")?.parse().ok())
                .collect(),
        }
    }
}

/// The processes that have devices open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Their open files, by process and descriptor. A descriptor that processes share appears once
    /// for each process, with the same number in [`FileStats::client`].
    pub files: Vec<OpenFile>,
    /// Number of processes whose files this program may not see.
    pub hidden: usize,
}

impl Users {
    /// Looks at all processes. Processes that start or end meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// The error of reading `/proc`.
    pub fn look() -> io::Result<Self> {
        let mut users = Self::default();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match files_of(&entry.path(), pid) {
                Ok(files) => users.files.extend(files),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => users.hidden += 1,
                // The process has ended.
                Err(_) => {}
            }
        }
        users.files.sort_by_key(|file| (file.pid, file.fd));
        Ok(users)
    }
}

fn files_of(process: &Path, pid: i32) -> io::Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        let Some(fd) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A file that was closed meanwhile does not count.
        let node = fs::read_link(entry.path()).ok();
        let Some(node) = node.and_then(|target| Node::of_path(&target)) else {
            continue;
        };
        files.extend(OpenFile::read(process, pid, fd, node).ok());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_number_and_nothing_else() {
        let node = |path| Node::of_path(Path::new(path)).map(Node::number);
        assert_eq!(node("/dev/hmm_dmirror0"), Some(0));
        assert_eq!(node("/dev/hmm_dmirror12"), Some(12));
        assert_eq!(node("/dev/hmm_dmirror"), None);
        assert_eq!(node("/dev/hmm_dmirror+1"), None);
        assert_eq!(node("/tmp/hmm_dmirror0"), None);
        assert_eq!(node("/dev/hmm_dmirror0 (deleted)"), None);
        assert_eq!(Node::of_number(3).path(), Path::new("/dev/hmm_dmirror3"));
        assert_eq!(Node::of_number(3).kind(), Kind::Coherent);
    }

    #[test]
    fn reads_what_an_open_file_says() {
        let info = include_str!("testdata/fdinfo.txt");
        let file = OpenFile::parse(info, 7, "program", 3, Node::of_number(0));
        assert_eq!(file.queues, 4);
        assert_eq!(file.engine_ns, [220_216_482, 95_400_640]);
        let stats = file.stats.unwrap();
        assert_eq!(
            (stats.client, stats.out, stats.device_faults),
            (2, 1194, 205)
        );
        assert_eq!(stats.mapped_system_kib, 28);
    }

    #[test]
    fn another_module_says_nothing() {
        let info = "pos:\t0\nflags:\t0100002\nmnt_id:\t24\nino:\t5\n";
        let file = OpenFile::parse(info, 7, "program", 3, Node::of_number(0));
        assert_eq!((file.queues, file.stats), (0, None));
    }

    #[test]
    fn this_process_has_no_device_open() {
        let users = Users::look().unwrap();
        let own = std::process::id() as i32;
        assert!(users.files.iter().all(|file| file.pid != own));
    }
}
