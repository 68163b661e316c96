// SPDX-License-Identifier: GPL-2.0

//! Advice for ranges of addresses: the preferred location of memory, and its access by engines.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::advice::{Access, Change, Target};
//! use dmirror_client::{Device, Region};
//!
//! let device = Device::open("/dev/hmm_dmirror0")?;
//! let region = Region::anonymous(16)?;
//! let change = Change::new().location(Target::Device).access(Access::Migrate);
//! device.advise(region.range(), change)?;
//! let advice = device.advice_at(region.addr(), u64::MAX & !4095)?;
//! assert_eq!((advice.access, advice.end), (Access::Migrate, region.range().end()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use thiserror::Error;

use crate::abi;
use crate::abi::Argument;
use crate::device::Device;
use crate::range::PageRange;
use crate::sys;

/// Maximum number of ranges with advice per open file.
pub const MOST: usize = abi::DMIRROR_MAX_ADVICE as usize;

/// The preferred location of memory, as a program requests it.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// No advice.
    Default,
    /// In system memory.
    System,
    /// On this device.
    Device,
    /// On the device that this open file belongs to.
    Peer(BorrowedFd<'a>),
}

/// The preferred location of memory, as the device reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// No advice.
    #[default]
    Default,
    /// In system memory.
    System,
    /// On this device, which has this number.
    Device(u32),
    /// On the device with this number.
    Peer(u32),
    /// A number that the header does not define.
    Unknown(u32),
}

/// Defines an enum of values from the header.
macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $value:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            /// No advice.
            #[default]
            Default,
            $($(#[$about])* $variant,)*
            /// A number that the header does not define.
            Unknown(u32),
        }

        impl $name {
            fn number(self) -> u32 {
                match self {
                    Self::Default => 0,
                    $(Self::$variant => abi::$value,)*
                    Self::Unknown(number) => number,
                }
            }

            fn of_number(number: u32) -> Self {
                match number {
                    0 => Self::Default,
                    $(abi::$value => Self::$variant,)*
                    number => Self::Unknown(number),
                }
            }
        }
    };
}

values! {
    /// The way in which the device accesses memory that it does not map.
    Access {
        /// It moves the memory to its preferred location.
        Migrate = DMIRROR_ADVICE_ACCESS_MIGRATE,
        /// It maps the memory where it is.
        InPlace = DMIRROR_ADVICE_ACCESS_IN_PLACE,
        /// Not at all: engines must not access it.
        None = DMIRROR_ADVICE_ACCESS_NONE,
    }
}

values! {
    /// The place where the device performs atomic operations.
    Atomics {
        /// In its own memory.
        Device = DMIRROR_ADVICE_ATOMICS_DEVICE,
        /// In system memory.
        System = DMIRROR_ADVICE_ATOMICS_SYSTEM,
        /// Nowhere.
        None = DMIRROR_ADVICE_ATOMICS_NONE,
    }
}

/// A change by [`Device::advise`]; attributes that are not set stay.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Change<'a> {
    location: Option<Target<'a>>,
    access: Option<Access>,
    atomics: Option<Atomics>,
    granule: Option<u32>,
}

impl<'a> Change<'a> {
    /// Creates a change of nothing, which the device refuses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a change that removes all advice.
    pub fn back() -> Self {
        Self::new()
            .location(Target::Default)
            .access(Access::Default)
            .atomics(Atomics::Default)
            .granule(0)
    }

    /// Sets the preferred location of the memory.
    pub fn location(mut self, location: Target<'a>) -> Self {
        self.location = Some(location);
        self
    }

    /// Sets the way in which the device accesses the memory.
    pub fn access(mut self, access: Access) -> Self {
        self.access = Some(access);
        self
    }

    /// Sets the place where the device performs atomic operations.
    pub fn atomics(mut self, atomics: Atomics) -> Self {
        self.atomics = Some(atomics);
        self
    }

    /// Sets the number of bytes that move at once; 0 is the default.
    pub fn granule(mut self, bytes: u32) -> Self {
        self.granule = Some(bytes);
        self
    }

    /// Returns the struct of ADVISE_SET.
    pub(crate) fn argument(&self, range: PageRange) -> abi::dmirror_advise_set {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let (location, location_fd) = match self.location {
            None | Some(Target::Default) => (abi::DMIRROR_LOCATION_DEFAULT, 0),
            Some(Target::System) => (abi::DMIRROR_LOCATION_SYSTEM, 0),
            Some(Target::Device) => (abi::DMIRROR_LOCATION_DEVICE, 0),
            Some(Target::Peer(fd)) => (abi::DMIRROR_LOCATION_PEER, fd.as_raw_fd()),
        };
        abi::dmirror_advise_set {
            size: size_of::<abi::dmirror_advise_set>() as u32,
            flags: 0,
            addr: range.addr(),
            len: range.bytes(),
            mask: bit(self.location.is_some(), abi::DMIRROR_ADVISE_LOCATION)
                | bit(self.access.is_some(), abi::DMIRROR_ADVISE_ACCESS)
                | bit(self.atomics.is_some(), abi::DMIRROR_ADVISE_ATOMICS)
                | bit(self.granule.is_some(), abi::DMIRROR_ADVISE_GRANULE),
            location,
            location_fd,
            access: self.access.unwrap_or_default().number(),
            atomics: self.atomics.unwrap_or_default().number(),
            granule: self.granule.unwrap_or_default(),
        }
    }
}

/// The advice for an address, and the end of the range with the same advice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advised {
    /// The preferred location of the memory.
    pub location: Location,
    /// The way in which the device accesses the memory.
    pub access: Access,
    /// The place where the device performs atomic operations.
    pub atomics: Atomics,
    /// Number of bytes that move at once; 0 without advice.
    pub granule: u32,
    /// The end of the range, exclusive, or the limit.
    pub end: u64,
}

impl Advised {
    pub(crate) fn of(argument: &abi::dmirror_advise_get) -> Self {
        let device = argument.device;
        Self {
            location: match argument.location {
                abi::DMIRROR_LOCATION_DEFAULT => Location::Default,
                abi::DMIRROR_LOCATION_SYSTEM => Location::System,
                abi::DMIRROR_LOCATION_DEVICE => Location::Device(device),
                abi::DMIRROR_LOCATION_PEER => Location::Peer(device),
                number => Location::Unknown(number),
            },
            access: Access::of_number(argument.access),
            atomics: Atomics::of_number(argument.atomics),
            granule: argument.granule,
            end: argument.end,
        }
    }

    /// Returns no advice, up to `end`.
    pub fn nothing(end: u64) -> Self {
        Self {
            end,
            ..Self::default()
        }
    }
}

/// The error of a command about advice.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{command} at {addr:#x}: {errno}")]
pub struct AdviceError {
    /// The command.
    pub command: &'static str,
    /// The first address of the range.
    pub addr: u64,
    /// The error number.
    pub errno: Errno,
}

/// A function that sends a struct to the kernel.
pub(crate) type Send<T> = fn(BorrowedFd<'_>, u32, &mut T) -> Result<(), Errno>;

impl Device {
    /// The number of ADVISE_SET, for [`call_at`](Self::call_at), and the size of its struct.
    pub const ADVISE_SET: (u32, usize) = (
        abi::DMIRROR_NR_ADVISE_SET,
        size_of::<abi::dmirror_advise_set>(),
    );

    /// The number of ADVISE_GET, for [`call_at`](Self::call_at), and the size of its struct.
    pub const ADVISE_GET: (u32, usize) = (
        abi::DMIRROR_NR_ADVISE_GET,
        size_of::<abi::dmirror_advise_get>(),
    );

    /// Changes the advice for `range`.
    ///
    /// # Errors
    ///
    /// [`AdviceError`] with `EINVAL` (nothing changes, or a value is invalid; the peer is not a
    /// device), `EFAULT` (a part of the range is not mapped), `ENOSPC` (there would be more than
    /// [`MOST`] ranges), `ENOMEM`, `EINTR`.
    pub fn advise(&self, range: PageRange, change: Change<'_>) -> Result<(), AdviceError> {
        self.advise_by(sys::ioctl, range, change)
    }

    /// Returns the advice for the page at `addr`, and the end of the range with the same advice, at
    /// most `limit`.
    ///
    /// # Errors
    ///
    /// [`AdviceError`] with `EINVAL` (an address is not page aligned, or `limit` is not above
    /// `addr`), `EFAULT` (the address space of the opener is gone).
    pub fn advice_at(&self, addr: u64, limit: u64) -> Result<Advised, AdviceError> {
        self.advice_by(sys::ioctl, addr, limit)
    }

    pub(crate) fn advise_by(
        &self,
        send: Send<abi::dmirror_advise_set>,
        range: PageRange,
        change: Change<'_>,
    ) -> Result<(), AdviceError> {
        let mut argument = change.argument(range);
        self.send_advice(
            send,
            "ADVISE_SET",
            Self::ADVISE_SET,
            range.addr(),
            &mut argument,
        )
    }

    pub(crate) fn advice_by(
        &self,
        send: Send<abi::dmirror_advise_get>,
        addr: u64,
        limit: u64,
    ) -> Result<Advised, AdviceError> {
        let mut argument = abi::dmirror_advise_get {
            size: size_of::<abi::dmirror_advise_get>() as u32,
            addr,
            limit,
            ..Default::default()
        };
        self.send_advice(send, "ADVISE_GET", Self::ADVISE_GET, addr, &mut argument)?;
        Ok(Advised::of(&argument))
    }

    fn send_advice<T: Argument>(
        &self,
        send: Send<T>,
        command: &'static str,
        (number, _): (u32, usize),
        addr: u64,
        argument: &mut T,
    ) -> Result<(), AdviceError> {
        send(self.as_fd(), number, argument).map_err(|errno| AdviceError {
            command,
            addr,
            errno,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_to_change_is_in_the_mask() {
        let range = PageRange::new(4096, 2).unwrap();
        let argument = Change::new().granule(65536).argument(range);
        assert_eq!(argument.mask, abi::DMIRROR_ADVISE_GRANULE);
        assert_eq!((argument.granule, argument.len), (65536, 8192));
        assert_eq!(Change::new().argument(range).mask, 0);
        let back = Change::back().argument(range);
        assert_eq!(back.mask, 15);
        assert_eq!((back.location, back.access, back.atomics), (0, 0, 0));
    }

    #[test]
    fn values_are_those_of_the_header() {
        for access in [
            Access::Default,
            Access::Migrate,
            Access::InPlace,
            Access::None,
        ] {
            assert_eq!(Access::of_number(access.number()), access);
        }
        for atomics in [Atomics::Device, Atomics::System, Atomics::None] {
            assert_eq!(Atomics::of_number(atomics.number()), atomics);
        }
        assert_eq!(Access::of_number(77), Access::Unknown(77));
    }

    #[test]
    fn errors_say_where() {
        let device = Device::open("/dev/null").unwrap();
        let range = PageRange::new(4096, 1).unwrap();
        let error = device.advise(range, Change::back()).unwrap_err();
        assert_eq!(error.errno, Errno::ENOTTY);
        assert!(error.to_string().starts_with("ADVISE_SET at 0x1000: "));
        assert_eq!(device.advice_at(0, 4096).unwrap_err().errno, Errno::ENOTTY);
    }
}
