// SPDX-License-Identifier: GPL-2.0

//! The state of devices and their users at one moment, as `info` and `top` show it.

use std::collections::BTreeMap;
use std::io;

use anyhow::Context as _;
use anyhow::Result;
use dmirror_client::Device;
use dmirror_client::Module;
use dmirror_client::Policy;
use dmirror_client::Stats;
use dmirror_client::node::Kind;
use dmirror_client::node::Node;
use dmirror_client::node::OpenFile;
use dmirror_client::node::Users;
use dmirror_client::node::nodes;
use serde::Serialize;
use serde_json::Value;

use crate::needs;

/// The state of the module, the devices and their users.
#[derive(Clone, Debug, Default, Serialize)]
pub struct State {
    /// The module.
    pub module: ModuleState,
    /// The devices, by number.
    pub devices: Vec<DeviceState>,
    /// The open device files.
    pub files: Vec<FileState>,
    /// The information that was not accessible, in words.
    pub hidden: Vec<String>,
}

/// A module.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModuleState {
    /// `dmirror`, or `test_hmm`, the kernel's own.
    pub name: String,
    /// A version, or a checksum of the source, that distinguishes builds.
    pub version: Option<String>,
    /// Number of open device files, and of other users that keep it loaded.
    pub users: Option<u64>,
    /// Parameters as the kernel shows them.
    pub parameters: Vec<String>,
}

/// A device.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceState {
    /// N of `/dev/hmm_dmirrorN`.
    pub number: u32,
    /// Its path.
    pub node: String,
    /// `private` or `coherent`.
    pub memory: &'static str,
    /// Its memory in pages.
    pub pages: Option<u64>,
    /// Pages that hold data.
    pub resident_pages: Option<u64>,
    /// Pages that reservations hold, and those that have just moved.
    pub reserved_pages: Option<u64>,
    /// Pages that are free.
    pub free_pages: Option<u64>,
    /// Blocks of a huge page each that are free as a whole.
    pub free_blocks: Option<u64>,
    /// Number of used pages of each block, in the order of their frames. Only `top` reads it.
    #[serde(skip)]
    pub blocks: Vec<u64>,
    /// Number of engines.
    pub engines: Option<u32>,
    /// Number of resets of the engines.
    pub resets: Option<u64>,
    /// The preset that all settings match, or `custom`.
    pub policy: Option<String>,
    /// Settings of the policy.
    pub settings: BTreeMap<String, Value>,
    /// Pages that moved to the device, by cause.
    pub moved_out: BTreeMap<&'static str, u64>,
    /// Pages that came back, by cause.
    pub moved_back: BTreeMap<&'static str, u64>,
    /// Pages that were on the device when they were freed.
    pub freed_pages: Option<u64>,
    /// Faults of CPUs on its pages.
    pub cpu_faults: Option<u64>,
    /// Windows of up to a huge page that it has faulted in.
    pub device_faults: Option<u64>,
    /// Blocks whose pages had to move back.
    pub evictions: Option<u64>,
    /// All statistics.
    #[serde(skip)]
    pub stats: Option<Stats>,
}

/// An open device file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileState {
    /// The process that has it open.
    pub pid: i32,
    /// The process whose memory it is for.
    pub opener: i32,
    /// The name of the opener, or of the process that has the file open if the opener has ended.
    pub program: String,
    /// The descriptor.
    pub fd: i32,
    /// N of `/dev/hmm_dmirrorN`.
    pub device: u32,
    /// A number that no other open file has; several descriptors may stand for one open file.
    pub client: Option<u64>,
    /// Device memory that the device has mapped for it, in KiB.
    pub device_kib: Option<u64>,
    /// Other memory that the device has mapped for it, in KiB.
    pub system_kib: Option<u64>,
    /// Pages that its commands have moved to the device.
    pub out_pages: Option<u64>,
    /// Pages that its commands have brought back.
    pub back_pages: Option<u64>,
    /// Number of its queues.
    pub queues: u64,
    /// Time that each engine has worked for it, in nanoseconds.
    pub engine_ns: Vec<u64>,
}

impl State {
    /// Reads the state of everything.
    pub fn look() -> Result<Self> {
        let module = needs::module()?;
        let mut hidden = Vec::new();
        let devices = nodes().context("/dev")?.into_iter();
        let devices = devices
            .map(|node| DeviceState::look(node, &module, &mut hidden))
            .collect::<Result<_>>()?;
        let users = Users::look().context("/proc")?;
        if users.hidden > 0 {
            hidden.push(format!(
                "open files of {} processes of other users",
                users.hidden
            ));
        }
        hidden.sort_unstable();
        hidden.dedup();
        Ok(Self {
            module: ModuleState {
                name: module.name().to_owned(),
                version: module.version(),
                users: module.users().ok(),
                parameters: module.parameters(),
            },
            devices,
            files: users.files.iter().map(FileState::of).collect(),
            hidden,
        })
    }

    /// Returns whether the devices belong to this project's module.
    pub fn is_ours(&self) -> bool {
        Module::named(&self.module.name).is_ours()
    }
}

impl DeviceState {
    fn look(node: Node, module: &Module, hidden: &mut Vec<String>) -> Result<Self> {
        let mut state = Self {
            number: node.number(),
            node: node.path().display().to_string(),
            memory: match node.kind() {
                Kind::Private => "private",
                Kind::Coherent => "coherent",
            },
            ..Self::default()
        };
        if !module.is_ours() {
            return Ok(state);
        }
        match Device::open(node.path()) {
            Ok(device) => {
                let query = device.query().with_context(|| state.node.clone())?;
                state.engines = Some(query.engines);
                state.resets = Some(query.generation);
                let room = device.room().with_context(|| state.node.clone())?;
                state.pages = room.map(|room| room.pages);
                state.free_pages = room.map(|room| room.free_pages);
                state.free_blocks = room.map(|room| room.free_blocks);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                hidden.push(format!("size and engines of {} (mode 0600)", state.node));
            }
            Err(error) => return Err(error).with_context(|| state.node.clone()),
        }
        let name = node.name();
        match Stats::of(&name).with_context(|| format!("statistics of {name}"))? {
            Some(stats) => state.count(stats),
            None => hidden.push("statistics and policy, which are in debugfs".into()),
        }
        if let Some(policy) = Policy::of(&name).with_context(|| format!("policy of {name}"))? {
            state.policy = Some(policy.preset()?);
            let files = policy.files().context("settings")?;
            let value = |text: String| match text.parse::<u64>() {
                Ok(number) => number.into(),
                Err(_) => text.into(),
            };
            state.settings = files
                .into_iter()
                .map(|(name, text)| (name, value(text)))
                .collect();
        }
        Ok(state)
    }

    fn count(&mut self, stats: Stats) {
        self.pages = Some(stats.pages);
        self.resident_pages = Some(stats.resident);
        self.reserved_pages = Some(stats.reserved);
        self.free_pages = Some(stats.free);
        self.free_blocks = Some(stats.free_blocks);
        self.moved_out = OUT
            .into_iter()
            .map(|(name, of)| (name, of(&stats)))
            .collect();
        self.moved_back = BACK
            .into_iter()
            .map(|(name, of)| (name, of(&stats)))
            .collect();
        self.freed_pages = Some(stats.freed);
        self.cpu_faults = Some(stats.cpu_faults);
        self.device_faults = Some(stats.device_faults);
        self.evictions = Some(stats.evictions);
        self.stats = Some(stats);
    }
}

/// A cause, with the number of pages that moved for it.
pub type CausePages = (&'static str, fn(&Stats) -> u64);

/// The causes of moves to a device.
pub const OUT: [CausePages; 2] = [
    ("request", |stats| stats.out_request),
    ("device_fault", |stats| stats.out_device_fault),
];

/// The causes of moves back.
pub const BACK: [CausePages; 5] = [
    ("request", |stats| stats.back_request),
    ("device_fault", |stats| stats.back_device_fault),
    ("cpu_fault", |stats| stats.back_cpu_fault),
    ("eviction", |stats| stats.back_eviction),
    ("release", |stats| stats.back_release),
];

impl FileState {
    fn of(file: &OpenFile) -> Self {
        let stats = file.stats;
        Self {
            pid: file.pid,
            opener: file.opener.unwrap_or(file.pid),
            program: file
                .opener_program
                .as_ref()
                .unwrap_or(&file.program)
                .clone(),
            fd: file.fd,
            device: file.node.number(),
            client: stats.map(|stats| stats.client),
            device_kib: stats.map(|stats| stats.mapped_device_kib),
            system_kib: stats.map(|stats| stats.mapped_system_kib),
            out_pages: stats.map(|stats| stats.out),
            back_pages: stats.map(|stats| stats.back),
            queues: file.queues,
            engine_ns: file.engine_ns.clone(),
        }
    }
}
