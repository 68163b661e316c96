// SPDX-License-Identifier: GPL-2.0

//! A device: its pages, and its answers to callbacks from mm.

use emu::{
    debugfs::{DebugfsDir, DebugfsU32s},
    device::{DeviceOps, Emulated, Pagemap},
    memory::Memory,
    sched,
    trace::{Cause, Evict, Migrate, Place},
};
use hmm::{
    counter::Counter,
    lru::drain_lru_batches,
    memremap::{
        CpuFault, DevicePages, Evicted, FaultAnswer, Options, Owner, HPAGE_PMD_NR, HPAGE_PMD_ORDER,
    },
    migrate::MigrateBuffer,
};
use kernel::{
    new_mutex, new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc, Mutex, SpinLock,
    },
    time::{delay::fsleep, Delta, Instant, Monotonic},
};

use crate::{
    alloc::Eviction,
    config::{self, MIGRATE_PAUSE_US, REGION_NAME, RELEASE_ROUNDS, WINDOW_PAGES},
    engine::Engine,
    faults::FaultBuffer,
    hooks::TestHooks,
    inject::Injection,
    policy::{Preset, Setting, MAX_TIMESLICE_US, PRESETS, SETTINGS},
    pool::Pool,
    slice::MAX_DOUBLED,
    stats::{Attempts, ServiceStats},
    window::Windows,
};

/// A device with memory of its own.
pub(crate) struct Device {
    pagemap: Arc<Pagemap<DeviceMemory>>,
    engines: KVec<Arc<Engine>>,
    faults: Arc<FaultBuffer>,
    /// Number of engine resets.
    generation: Counter,
}

impl Device {
    /// Creates a device with `memory` and `engines` engines; trace events identify it by `number`.
    pub(crate) fn new(
        memory: Memory,
        injection: Arc<Injection>,
        number: u32,
        engines: usize,
    ) -> Result<Self> {
        let options = Options {
            owner: Owner::new()?,
            node: None,
            hooks: TestHooks::new(injection.clone()),
        };
        let driver = DeviceMemory::new(memory.npages(), injection, number);
        let pagemap = Emulated::new(memory, REGION_NAME, options, driver)?;
        let pagemap = Arc::pin_init(pagemap, GFP_KERNEL)?;
        pagemap.ops().apply(&PRESETS[0]);
        let mut device = Self {
            pagemap,
            engines: KVec::with_capacity(engines, GFP_KERNEL)?,
            faults: FaultBuffer::new(number, engines)?,
            generation: Counter::default(),
        };
        for _ in 0..engines {
            device.engines.push(Engine::new()?, GFP_KERNEL)?;
        }
        Ok(device)
    }

    /// Returns the pagemap of the device.
    pub(crate) fn pagemap(&self) -> &Arc<Pagemap<DeviceMemory>> {
        &self.pagemap
    }

    /// Returns the number of engines.
    pub(crate) fn engines(&self) -> usize {
        self.engines.len()
    }

    /// Returns an engine by its number.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when there is no such engine.
    pub(crate) fn engine(&self, number: usize) -> Result<&Arc<Engine>> {
        self.engines.get(number).ok_or(EINVAL)
    }

    /// Returns the number of the engine with the fewest queues.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] when the device has no engines.
    pub(crate) fn idlest_engine(&self) -> Result<usize> {
        let numbers = 0..self.engines.len();
        numbers
            .min_by_key(|&number| self.engines[number].queues())
            .ok_or(EINVAL)
    }

    /// Returns the fault buffer.
    pub(crate) fn faults(&self) -> &Arc<FaultBuffer> {
        &self.faults
    }

    /// Returns the number of engine resets.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Fails all jobs that have not ended yet.
    ///
    /// May sleep; does not wait for the jobs.
    pub(crate) fn reset(&self) {
        self.generation.add(1);
        for engine in &self.engines {
            engine.reset();
        }
    }

    /// Ends all jobs, and the threads of the engines.
    ///
    /// May sleep.
    fn stop(&self) {
        for engine in &self.engines {
            engine.stop();
        }
        self.faults.stop();
    }

    /// Moves every page back to system memory, regardless of its owner; adds the number of moved
    /// pages to `count`.
    ///
    /// May sleep. Retries pages that others have locked a bounded number of times.
    ///
    /// # Errors
    ///
    /// As `rust/uapi/dmirror.h` lists them for `RELEASE`; `count` is valid even then.
    pub(crate) fn release(&self, count: &mut u64) -> Result {
        let pagemap = &*self.pagemap;
        let mut outcome = Ok(());
        for round in 0..RELEASE_ROUNDS {
            if round > 0 {
                fsleep(Delta::from_micros(MIGRATE_PAUSE_US));
                drain_lru_batches();
            }
            outcome = Ok(());
            let mut left = 0;
            for block in 0..pagemap.npages() / HPAGE_PMD_NR {
                let evicted = pagemap.ops().evict(pagemap, block, Cause::Release);
                *count += evicted.moved as u64;
                left += evicted.left;
                outcome = evicted.error.map_or(outcome, Err);
                sched::cond_resched();
                if sched::fatal_signal_pending() {
                    return Err(EINTR);
                }
            }
            if left == 0 {
                return Ok(());
            }
        }
        outcome.and(Err(EBUSY))
    }
}

/// A device whose engines run until drop. This ensures that they have stopped before the module's
/// code goes away, even if someone else still refers to the device.
pub(crate) struct RunningDevice(Arc<Device>);

impl RunningDevice {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self(device)
    }
}

impl Drop for RunningDevice {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Drop for Device {
    /// Moves back the pages that can move at once, so that trace events show it. The pagemap moves
    /// the rest, and waits for it.
    fn drop(&mut self) {
        for block in 0..self.pagemap.npages() / HPAGE_PMD_NR {
            let ops = self.pagemap.ops();
            if !ops.pool().is_block_free(block) {
                ops.evict(&self.pagemap, block, Cause::Unload);
            }
        }
    }
}

/// The driver's side of the device pages.
///
/// It belongs only to the device: pages outlive the files and the processes that moved them.
#[pin_data]
pub(crate) struct DeviceMemory {
    number: u32,
    #[pin]
    pool: Pool,
    /// The arrays of an eviction; only one block is evicted at a time.
    #[pin]
    eviction: Mutex<MigrateBuffer>,
    injection: Arc<Injection>,
    /// The directory of the device in debugfs.
    folder: Arc<DebugfsDir>,
    /// The debugfs files with which root sets the policy.
    #[pin]
    settings: DebugfsU32s<SETTINGS>,
    /// For each block, the time until which CPUs have to wait for its pages, in nanoseconds.
    kept_until: KVVec<Atomic<u64>>,
    /// The latest of those times.
    kept_longest: Atomic<u64>,
    /// The origin of the device's time.
    began: Instant<Monotonic>,
    service: ServiceStats,
    #[pin]
    windows: SpinLock<Windows>,
    /// Spare arrays for CPU faults.
    #[pin]
    fault: SpinLock<Option<MigrateBuffer>>,
    attempts: Attempts,
}

/// The names of the settings' files, in a directory with the name of the device file.
const FILES: [&CStr; SETTINGS] = Setting::FILES;

impl DeviceMemory {
    fn new(npages: usize, injection: Arc<Injection>, number: u32) -> impl PinInit<Self, Error> {
        let node = config::node(number);
        try_pin_init!(Self {
            number,
            folder: DebugfsDir::new(node.ok_or(EINVAL)?)?,
            settings <- DebugfsU32s::new(folder.clone(), &FILES),
            kept_until: kept_until(npages / HPAGE_PMD_NR)?,
            kept_longest: Atomic::new(0),
            began: Instant::now(),
            service: ServiceStats::default(),
            windows <- new_spinlock!(Windows::default(), "DeviceMemory::windows"),
            fault <- new_spinlock!(None, "DeviceMemory::fault"),
            pool <- Pool::new(npages, (*number).into(), folder.clone()),
            eviction <- new_mutex!(MigrateBuffer::new(HPAGE_PMD_NR)?, "DeviceMemory::eviction"),
            injection,
            attempts: Attempts::default(),
        })
    }

    /// Returns the directory of the device in debugfs.
    pub(crate) fn folder(&self) -> &Arc<DebugfsDir> {
        &self.folder
    }

    /// Returns the value of a setting.
    pub(crate) fn setting(&self, setting: Setting) -> u32 {
        self.settings.get(setting as usize)
    }

    /// Returns the policy that chooses the block to evict when the device is full.
    pub(crate) fn eviction_policy(&self) -> Eviction {
        Eviction::from_number(self.setting(Setting::Eviction))
    }

    /// Sets all settings to the values of a preset.
    pub(crate) fn apply(&self, preset: &Preset) {
        for (index, &value) in preset.values().iter().enumerate() {
            self.settings.put(index, value);
        }
    }

    /// Returns the name of the preset that the settings match, if any.
    pub(crate) fn preset(&self) -> Option<&'static str> {
        let has = |(index, &value): (usize, &u32)| self.settings.get(index) == value;
        let found = PRESETS
            .iter()
            .find(|preset| preset.values().iter().enumerate().all(has));
        found.map(|preset| preset.name)
    }

    /// Returns the statistics of the policy.
    pub(crate) fn service(&self) -> &ServiceStats {
        &self.service
    }

    /// Returns the time, in nanoseconds since the device was created.
    pub(crate) fn now_ns(&self) -> u64 {
        // CAST: Monotonic time does not go backwards, so the elapsed time is not negative.
        self.began.elapsed().as_nanos() as u64
    }

    /// Keeps the pages of a block from CPUs until the time `until`, in nanoseconds, or longer if
    /// another granule in the block has a longer slice.
    pub(crate) fn keep_until(&self, block: usize, until: u64) {
        let Some(kept) = self.kept_until.get(block) else {
            return;
        };
        // ORDERING: Relaxed: the number orders no other memory access. If two engines store at
        // once, either may win.
        if kept.load(Relaxed) < until {
            // ORDERING: Relaxed: the number orders no other memory access.
            kept.store(until, Relaxed);
        }
        // ORDERING: Relaxed: the number orders no other memory access. If two engines store at
        // once, either may win.
        if self.kept_longest.load(Relaxed) < until {
            // ORDERING: Relaxed: the number orders no other memory access.
            self.kept_longest.store(until, Relaxed);
        }
    }

    /// Waits until the time slice of the device page with number `page` is over. The folio is
    /// locked, and mm holds the `mmap_lock`.
    fn wait_for_slice(&self, page: usize) {
        let Some(kept) = self.kept_until.get(page / HPAGE_PMD_NR) else {
            return;
        };
        // ORDERING: Relaxed: the number orders no other memory access.
        let until = kept.load(Relaxed);
        if until == 0 {
            return;
        }
        let until = until.min(self.now_ns() + MAX_SLICE_NS);
        if until > self.now_ns() {
            self.service.slices.add(1);
        }
        // In a loop: if the timer tick was late when the sleep began, the sleep ends too early.
        loop {
            let left = until.saturating_sub(self.now_ns());
            if left == 0 {
                break;
            }
            // CAST: The value is at most MAX_SLICE_NS.
            fsleep(Delta::from_nanos(left as i64));
        }
    }

    /// Returns the statistics of the retries and failures of migrations.
    pub(crate) fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// Returns the allocator of the device's pages.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Evicts the pages of a block; `pagemap` must be that of this device.
    ///
    /// May sleep. Takes the eviction lock, and folio locks.
    pub(crate) fn evict(&self, pagemap: &Pagemap<Self>, block: usize, cause: Cause) -> Evicted {
        let evicted = self.traced_evict(pagemap, block, cause);
        if evicted.moved + evicted.left > 0 {
            self.attempts.evictions.add(1);
        }
        if let Some(error) = evicted.error {
            self.attempts.failures.note(error);
        }
        pagemap.ops().stats().came_back(cause, evicted.moved);
        evicted
    }

    /// Does the same as [`evict`](Self::evict), with the trace events.
    fn traced_evict(&self, pagemap: &Pagemap<Self>, block: usize, cause: Cause) -> Evicted {
        let first = block * HPAGE_PMD_NR;
        let mut buffer = self.eviction.lock();
        let mut evict = || pagemap.evict(first..first + HPAGE_PMD_NR, &mut buffer);
        let is_traced = Migrate::is_enabled() || Evict::is_enabled();
        if !is_traced || self.pool.is_block_free(block) {
            return evict();
        }
        let (device, start) = (self.number, Instant::now());
        let migrate = || Migrate {
            device,
            range: 0..HPAGE_PMD_NR * PAGE_SIZE,
            order: HPAGE_PMD_ORDER,
            to: Place::System,
            cause,
        };
        let evicted = Migrate::trace(migrate, evict, |evicted| (evicted.moved, evicted.error));
        Evict::emit(|| Evict {
            device,
            block,
            cause,
            moved: evicted.moved,
            left: evicted.left,
            error: evicted.error,
            start,
        });
        evicted
    }

    /// Waits until a running eviction has ended and released its locks on the pages of a block. For
    /// a migration that found pages of its range locked.
    ///
    /// May sleep. Takes the eviction lock, so must not be called with a folio locked.
    pub(crate) fn wait_for_eviction(&self) {
        drop(self.eviction.lock());
    }

    /// Returns the order of the window that a CPU fault moves back.
    fn window_order(&self, fault: &CpuFault<'_, Emulated<Self>>) -> u32 {
        let bytes = self.setting(Setting::Window) as usize;
        let most = (bytes / PAGE_SIZE).clamp(1, WINDOW_PAGES).ilog2();
        // ORDERING: Relaxed: the number orders no other memory access.
        let kept = self.kept_longest.load(Relaxed);
        // A neighbour may be in a block whose time slice is not over.
        if fault.npages() > 1 || (kept > 0 && kept > self.now_ns()) {
            return 0;
        }
        // Only used to distinguish address spaces.
        let space = core::ptr::from_ref(fault.vma().mm()) as usize;
        let page = fault.address() / PAGE_SIZE;
        self.windows.lock().order_for(space, page, most)
    }

    /// Moves back the page that a CPU has touched, and those that it will probably touch next.
    fn bring_back(&self, fault: &CpuFault<'_, Emulated<Self>>) -> Result {
        if let Some(page) = fault.device_index() {
            self.wait_for_slice(page);
        }
        let order = self.window_order(fault);
        if order == 0 {
            return fault.migrate_to_system();
        }
        let kept = self.fault.lock().take();
        let Ok(mut buffer) = kept.map_or_else(|| MigrateBuffer::new(WINDOW_PAGES), Ok) else {
            // A single page needs no arrays.
            return fault.migrate_to_system();
        };
        let result = fault.migrate_window(1 << order, &mut buffer);
        let surplus = self.fault.lock().replace(buffer);
        // Freed without the lock held.
        drop(surplus);
        result
    }

    /// Returns the failure injection that tests use.
    pub(crate) fn injection(&self) -> &Injection {
        &self.injection
    }
}

impl DeviceOps for DeviceMemory {
    type FolioData = ();
    type Hooks = TestHooks;

    fn number(&self) -> u32 {
        self.number
    }

    fn folio_free(&self, pages: DevicePages, (): ()) {
        self.pool.free(pages);
    }

    fn folio_split(&self, piece: DevicePages) {
        self.pool.split(piece.first());
    }

    fn migrate_to_ram(&self, fault: CpuFault<'_, Emulated<Self>>) -> FaultAnswer {
        match self.bring_back(&fault) {
            // Either the page moved back, or someone else has a reference to it and will soon drop
            // it, or a test has injected a single failure.
            Ok(()) | Err(EAGAIN) => fault.retry(),
            Err(ENOMEM) => fault.out_of_memory(),
            Err(_) => fault.bus_error(),
        }
    }
}

/// Maximum number of nanoseconds that a CPU waits for a time slice.
const MAX_SLICE_NS: u64 = (MAX_TIMESLICE_US as u64 * 1000) << MAX_DOUBLED;

fn kept_until(blocks: usize) -> Result<KVVec<Atomic<u64>>> {
    let mut all = KVVec::with_capacity(blocks, GFP_KERNEL)?;
    for _ in 0..blocks {
        all.push(Atomic::new(0), GFP_KERNEL)?;
    }
    Ok(all)
}
