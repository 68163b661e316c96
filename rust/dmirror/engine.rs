// SPDX-License-Identifier: GPL-2.0

//! Engines: threads that execute the jobs of queues.
//!
//! An engine belongs to its device, and does not outlive the module: unloading stops it. It owns
//! the data that it works on, so closing a file need not wait for it. When a queue is destroyed
//! while one of its jobs runs, the engine is interrupted, which ends any wait.
//!
//! Locks: that of the engine, then that of the jobs of a queue. Neither is held while a job runs.

use emu::{
    device::DeviceOps,
    kthread::{clear_interrupt, Kthread, KthreadBody},
    sched::fatal_signal_pending,
    trace::engine::{self as trace, JobBegin, JobEnd},
};
use kernel::{
    fmt, new_condvar, new_mutex,
    prelude::*,
    str::CString,
    sync::{Arc, CondVar, Mutex},
    time::{Instant, Monotonic},
};

use crate::{
    call::Buffers,
    exec,
    queue::{Job, Queue},
};

/// The queues of an engine, and their schedule.
struct Work {
    queues: KVec<Arc<Queue>>,
    /// The index of the queue whose turn is next.
    turn: usize,
    /// The queue whose job is running.
    running: Option<Arc<Queue>>,
    is_stopped: bool,
}

impl Work {
    /// Returns a job of the first queue that has one, beginning with the queue whose turn is next.
    fn next(&mut self) -> Option<(Arc<Queue>, Job)> {
        let count = self.queues.len();
        for step in 0..count {
            let place = (self.turn + step) % count;
            if let Some(job) = self.queues[place].next() {
                self.turn = place + 1;
                let queue = self.queues[place].clone();
                self.running = Some(queue.clone());
                return Some((queue, job));
            }
        }
        None
    }

    fn runs(&self, queue: &Arc<Queue>) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| Arc::ptr_eq(running, queue))
    }
}

/// An engine.
#[pin_data]
pub(crate) struct Engine {
    #[pin]
    work: Mutex<Work>,
    /// Signalled when there is new work, or less of it.
    #[pin]
    changed: CondVar,
    /// Started with the first queue.
    #[pin]
    thread: Mutex<Option<Kthread<Worker>>>,
}

impl Engine {
    /// Creates an engine that does not run yet.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let work = Work {
            queues: KVec::new(),
            turn: 0,
            running: None,
            is_stopped: false,
        };
        let engine = pin_init!(Self {
            work <- new_mutex!(work, "Engine::work"),
            changed <- new_condvar!("Engine::changed"),
            thread <- new_mutex!(None, "Engine::thread"),
        });
        Arc::pin_init(engine, GFP_KERNEL)
    }

    /// Returns the number of queues of this engine.
    pub(crate) fn queues(&self) -> usize {
        self.work.lock().queues.len()
    }

    /// Adds a queue, and starts the thread, with the name `name`, if this is the first queue.
    ///
    /// May sleep.
    pub(crate) fn add(self: &Arc<Self>, queue: Arc<Queue>, name: fmt::Arguments<'_>) -> Result {
        let mut thread = self.thread.lock();
        // `stop` sets the flag before it takes the thread.
        if self.work.lock().is_stopped {
            return Err(ENODEV);
        }
        if thread.is_none() {
            let worker = Worker {
                engine: self.clone(),
                buffers: KBox::new(Buffers::new()?, GFP_KERNEL)?,
            };
            *thread = Some(Kthread::new(&CString::try_from_fmt(name)?, worker)?);
        }
        drop(thread);
        let mut work = self.work.lock();
        if work.is_stopped {
            return Err(ENODEV);
        }
        work.queues.push(queue, GFP_KERNEL)?;
        Ok(())
    }

    /// Makes the engine look for work.
    pub(crate) fn kick(&self) {
        // Keep the lock held, so that the engine either finds the work or is woken by this.
        let _work = self.work.lock();
        self.changed.notify_all();
    }

    /// Removes a destroyed queue, and ends its job if one is running.
    pub(crate) fn remove(&self, queue: &Arc<Queue>) {
        let mut work = self.work.lock();
        let place = work.queues.iter().position(|own| Arc::ptr_eq(own, queue));
        let removed = place.and_then(|place| work.queues.remove(place).ok());
        let runs = work.runs(queue);
        drop(work);
        drop(removed);
        if runs {
            self.interrupt();
        }
    }

    /// Waits until no job of a destroyed queue is running.
    ///
    /// # Errors
    ///
    /// [`EINTR`] when a fatal signal arrives. If another signal arrived before, the job ends first.
    pub(crate) fn wait_for(&self, queue: &Arc<Queue>) -> Result {
        let mut work = self.work.lock();
        let mut is_interrupted = false;
        while work.runs(queue) {
            if is_interrupted {
                // The caller could not call again. The job was interrupted too, and ends soon.
                self.changed.wait(&mut work);
            } else {
                is_interrupted = self.changed.wait_interruptible(&mut work);
            }
            if fatal_signal_pending() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Fails all jobs that have not ended yet.
    pub(crate) fn reset(&self) {
        let work = self.work.lock();
        for queue in &work.queues {
            queue.reset();
        }
        drop(work);
        self.interrupt();
        self.kick();
    }

    /// Ends all queues and the thread, which is not started again.
    ///
    /// May sleep until the engine's current wait was interrupted.
    pub(crate) fn stop(&self) {
        let mut work = self.work.lock();
        work.is_stopped = true;
        let queues = core::mem::take(&mut work.queues);
        for queue in &queues {
            queue.destroy();
        }
        drop(work);
        drop(queues);
        self.changed.notify_all();
        self.interrupt();
        let thread = self.thread.lock().take();
        drop(thread);
    }

    /// Ends the thread's current wait. The thread then checks whether its job is to continue.
    fn interrupt(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.interrupt();
        }
    }

    /// Waits for a job; returns `None` when the engine is to stop.
    fn next(&self) -> Option<(Arc<Queue>, Job)> {
        let mut work = self.work.lock();
        loop {
            if work.is_stopped {
                return None;
            }
            if let Some(next) = work.next() {
                return Some(next);
            }
            if self.changed.wait_interruptible(&mut work) {
                clear_interrupt();
            }
        }
    }

    /// Records that a job has ended.
    fn done(&self) {
        let done = self.work.lock().running.take();
        self.changed.notify_all();
        // Drop it without the lock held: it may be the last reference to the queue, and to the
        // address space.
        drop(done);
    }
}

/// Returns a job as trace events identify it.
fn traced(queue: &Queue, job: &Job) -> trace::Job {
    let client = queue.client();
    trace::Job {
        device: client.device().pagemap().ops().number(),
        engine: queue.engine(),
        client: client.traced(),
        queue: queue.number(),
        seqno: job.seqno,
    }
}

/// The thread of an engine.
struct Worker {
    engine: Arc<Engine>,
    /// Allocated by the caller of `add`, so that they are charged to the creator of the first
    /// queue.
    buffers: KBox<Buffers>,
}

impl KthreadBody for Worker {
    fn run(mut self) {
        while let Some((queue, job)) = self.engine.next() {
            let start = Instant::<Monotonic>::now();
            // Discard an interrupt of the previous job; checks of this job notice its own
            // cancellation.
            clear_interrupt();
            JobBegin::emit(|| JobBegin {
                job: traced(&queue, &job),
                address: job.packets,
                packets: job.npackets,
            });
            let outcome = exec::run(&queue, &job, &mut self.buffers);
            // Emit this before anyone is notified of the end.
            JobEnd::emit(|| JobEnd {
                job: traced(&queue, &job),
                executed: outcome.executed,
                error: outcome.failure.map(|failure| failure.error),
                address: outcome.failure.map_or(0, |failure| failure.address),
            });
            if let Some(busy) = queue.client().busy_ns.get(queue.engine()) {
                // CAST: Monotonic time does not go backwards, so the elapsed time is not negative.
                busy.add(start.elapsed().as_nanos() as u64);
            }
            queue.finish(&job, outcome);
            self.engine.done();
        }
    }
}
