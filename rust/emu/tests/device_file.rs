// SPDX-License-Identifier: GPL-2.0

//! Device files that know their device.
//!
//! The tests open them through devtmpfs, where programs see them.

use super::prelude::*;
use core::ffi::CStr;
use core::ptr::NonNull;

use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::mm::virt::VmaNew;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::ModuleMetadata;

/// Stands for the module: the test itself keeps its code loaded while a file is open.
struct Nobody;

impl ModuleMetadata for Nobody {
    const NAME: &'static CStr = c"hmm test";

    // SAFETY: A null pointer stands for built-in code, which always exists.
    crate::compat::this_module!(unsafe { ThisModule::from_ptr(core::ptr::null_mut()) });
}

/// A device that counts the files that were opened.
#[derive(Default)]
struct Counted {
    opened: Counter,
    mapped: Counter,
    /// Makes `open` fail.
    broken: Counter,
}

/// A file that knows its device, and the number of files that were opened before it.
struct Handle {
    device: Arc<Counted>,
    before: usize,
}

impl DeviceFileOps for Handle {
    type OwnerModule = Nobody;
    type Device = Counted;
    type File = KBox<Handle>;

    fn open(device: &Arc<Counted>) -> Result<KBox<Handle>> {
        if device.broken.take() {
            return Err(ENXIO);
        }
        let before = device.opened.get();
        device.opened.add(1);
        let device = device.clone();
        Ok(KBox::new(Handle { device, before }, GFP_KERNEL)?)
    }

    fn ioctl(file: &Handle, _: Opened<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        file.answer(cmd, arg)
    }
}

impl Handle {
    fn answer(&self, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            1 => Ok((self.device.opened.get() * 100 + self.before * 10 + arg) as isize),
            _ => Err(ENOTTY),
        }
    }
}

/// The same, with words in fdinfo, and with mappings, whose bytes it counts.
struct Talkative;

impl DeviceFileOps for Talkative {
    type OwnerModule = Nobody;
    type Device = Counted;
    type File = KBox<Handle>;

    fn open(device: &Arc<Counted>) -> Result<KBox<Handle>> {
        Handle::open(device)
    }

    fn ioctl(file: &Handle, _: Opened<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        file.answer(cmd, arg)
    }

    fn mmap(file: &Handle, vma: &VmaNew) -> Result {
        file.device.mapped.add(vma.end() - vma.start());
        Ok(())
    }

    fn show_fdinfo(file: &Handle, m: &SeqFile) {
        seq_print!(m, "before: {}\n", file.before);
    }
}

/// An open file.
///
/// # Invariants
///
/// The file is open, and we own the only reference to it.
struct Open(NonNull<bindings::file>);

impl Open {
    fn new(path: &'static CStr) -> Result<Self> {
        // SAFETY: The path is a C string.
        let file = from_err_ptr(unsafe { bindings::kunit_open(path.as_ptr().cast()) })?;
        // INVARIANT: The file was just opened.
        Ok(Self(NonNull::new(file).ok_or(EINVAL)?))
    }

    fn ioctl(&self, cmd: u32, arg: usize) -> Result<isize> {
        // SAFETY: The file is open, by the type invariant; it belongs to a device node, which has
        // an ioctl.
        let ret = unsafe { bindings::kunit_ioctl(self.0.as_ptr(), cmd, arg) };
        usize::try_from(ret)
            .map(|ret| ret as isize)
            .map_err(|_| Error::from_errno(ret as i32))
    }

    /// Maps a page of the file.
    fn mmap(&self) -> Result {
        with_mm(|_| {
            // SAFETY: The file is open, by the type invariant; the test has an address space.
            let ret = unsafe { bindings::kunit_mmap_file(self.0.as_ptr(), PAGE_SIZE) };
            to_result(i32::try_from(ret as isize).unwrap_or(0))
        })
    }

    /// Copies the fdinfo of the file to `out`; returns the length.
    fn fdinfo(&self, out: &mut [u8]) -> usize {
        // SAFETY: The file is open, by the type invariant, and belongs to a device node; the length
        // is that of `out`.
        unsafe { bindings::kunit_show_fdinfo(self.0.as_ptr(), out.as_mut_ptr().cast(), out.len()) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: The file is open, by the type invariant, and not used again.
        unsafe { bindings::kunit_close(self.0.as_ptr()) };
    }
}

fn files<T: DeviceFileOps<Device = Counted>>(
    name: &'static CStr,
) -> Result<(Arc<Counted>, DeviceFiles<T>)> {
    let device = Arc::new(Counted::default(), GFP_KERNEL)?;
    let mut devices = KVec::new();
    devices.push((name, device.clone()), GFP_KERNEL)?;
    Ok((device, DeviceFiles::new(devices)?))
}

const ONE: &CStr = c"/dev/hmm-test-one";

#[kunit_tests(emu_files)]
mod suite {
    use super::*;

    #[test]
    fn a_file_knows_its_device() -> Result {
        let (one, _one) = files::<Handle>(c"hmm-test-one")?;
        let (two, _two) = files::<Handle>(c"hmm-test-two")?;
        let files = [Open::new(ONE)?, Open::new(ONE)?];
        let other = Open::new(c"/dev/hmm-test-two")?;
        assert_eq!((one.opened.get(), two.opened.get()), (2, 1));
        assert_eq!(files[1].ioctl(1, 7), Ok(217));
        assert_eq!(other.ioctl(1, 7), Ok(107));
        assert_eq!(other.ioctl(2, 7), Err(ENOTTY));
        Ok(())
    }

    #[test]
    fn a_file_that_is_not_opened_is_none() -> Result {
        let (device, _files) = files::<Handle>(c"hmm-test-one")?;
        device.broken.set(1);
        assert_eq!(Open::new(ONE).err(), Some(ENXIO));
        assert_eq!(device.opened.get(), 0);
        assert!(Open::new(ONE).is_ok());
        Ok(())
    }

    #[test]
    fn what_a_driver_does_not_say_is_refused_or_empty() -> Result {
        let (_device, _files) = files::<Handle>(c"hmm-test-one")?;
        let file = Open::new(ONE)?;
        assert_eq!(file.mmap(), Err(ENODEV));
        assert_eq!(file.fdinfo(&mut [0; 64]), 0);
        Ok(())
    }

    #[test]
    fn mappings_and_fdinfo_are_what_the_driver_makes_them() -> Result {
        let (device, _files) = files::<Talkative>(c"hmm-test-one")?;
        let file = Open::new(ONE)?;
        let mut seen = [0; 64];
        let len = file.fdinfo(&mut seen);
        assert_eq!(&seen[..len], b"before: 0\n");
        assert_eq!(file.mmap(), Ok(()));
        assert_eq!(device.mapped.get(), PAGE_SIZE);
        assert_eq!(file.ioctl(1, 0), Ok(100));
        Ok(())
    }

    #[test]
    fn the_files_go_with_its_drop_and_its_files_with_theirs() -> Result {
        for _ in 0..2 {
            let (device, files) = files::<Handle>(c"hmm-test-one")?;
            let file = Open::new(ONE)?;
            drop(files);
            assert_eq!(Open::new(ONE).err(), Some(ENOENT));
            // An open file keeps its data.
            assert_eq!(file.ioctl(1, 3), Ok(103));
            drop(file);
            assert!(Arc::into_unique_or_drop(device).is_some());
        }
        Ok(())
    }

    #[test]
    fn there_are_all_files_or_none() -> Result {
        let device = Arc::new(Counted::default(), GFP_KERNEL)?;
        let mut devices = KVec::new();
        // A name that is already taken is refused, with a line in the log.
        for name in [c"hmm-test-one", c"hmm-test-two", c"hmm-test-one"] {
            devices.push((name, device.clone()), GFP_KERNEL)?;
        }
        assert_eq!(DeviceFiles::<Handle>::new(devices).err(), Some(EEXIST));
        assert_eq!(Open::new(ONE).err(), Some(ENOENT));
        assert!(Arc::into_unique_or_drop(device).is_some());
        let (_device, _files) = files::<Handle>(c"hmm-test-one")?;
        assert!(Open::new(ONE).is_ok());
        Ok(())
    }
}
