// SPDX-License-Identifier: GPL-2.0

//! The commands for advice: checks and conversion of their arguments and results.

use core::ops::{Range, RangeInclusive};

use emu::device::DeviceOps;
use kernel::prelude::*;

use crate::{
    attributes::{Atomics, Attributes, Change, Location, Reach},
    client::Client,
    pages::{BLOCK_PAGES, PAGE_SIZE},
    uapi::{self, dmirror_advise_get, dmirror_advise_set},
};

/// The smallest and the largest granule in bytes.
const GRANULES: RangeInclusive<u32> = PAGE_SIZE as u32..=(BLOCK_PAGES * PAGE_SIZE) as u32;

const MASK: u32 = uapi::DMIRROR_ADVISE_LOCATION
    | uapi::DMIRROR_ADVISE_ACCESS
    | uapi::DMIRROR_ADVISE_ATOMICS
    | uapi::DMIRROR_ADVISE_GRANULE;

/// Returns the number of the device behind a descriptor of the current task; `EBADF` when the
/// descriptor is not open, `EINVAL` when it belongs to something else.
pub(crate) type DeviceOf<'a> = &'a dyn Fn(i32) -> Result<u32>;

/// Sets attributes of a range.
///
/// May sleep.
pub(crate) fn set(
    client: &Client,
    device_of: DeviceOf<'_>,
    argument: &dmirror_advise_set,
) -> Result {
    let end = argument.addr.checked_add(argument.len).ok_or(EINVAL)?;
    let range = page_range(argument.addr, end)?;
    let change = change(client, device_of, argument)?;
    client.advise(range, &change)
}

/// Returns the advice for an address.
pub(crate) fn get(client: &Client, argument: &mut dmirror_advise_get) -> Result {
    let range = page_range(argument.addr, argument.limit)?;
    if argument.pad != 0 {
        return Err(EINVAL);
    }
    // The advice of an address space that is gone went away with it.
    client.users().ok_or(EFAULT)?;
    let (attributes, same) = client.attributes_at(range.start);
    let Attributes {
        location,
        reach,
        atomics,
        granule,
    } = attributes;
    argument.end = same.end.min(range.end) as u64;
    (argument.location, argument.device) = match location {
        Location::Any => (uapi::DMIRROR_LOCATION_DEFAULT, 0),
        Location::System => (uapi::DMIRROR_LOCATION_SYSTEM, 0),
        Location::Device => (uapi::DMIRROR_LOCATION_DEVICE, number(client)),
        Location::Peer(number) => (uapi::DMIRROR_LOCATION_PEER, number),
    };
    argument.access = match reach {
        Reach::Any => uapi::DMIRROR_ADVICE_ACCESS_DEFAULT,
        Reach::Migrate => uapi::DMIRROR_ADVICE_ACCESS_MIGRATE,
        Reach::InPlace => uapi::DMIRROR_ADVICE_ACCESS_IN_PLACE,
        Reach::Denied => uapi::DMIRROR_ADVICE_ACCESS_NONE,
    };
    argument.atomics = match atomics {
        Atomics::Any => uapi::DMIRROR_ADVICE_ATOMICS_DEFAULT,
        Atomics::Device => uapi::DMIRROR_ADVICE_ATOMICS_DEVICE,
        Atomics::System => uapi::DMIRROR_ADVICE_ATOMICS_SYSTEM,
        Atomics::Denied => uapi::DMIRROR_ADVICE_ATOMICS_NONE,
    };
    argument.granule = granule;
    Ok(())
}

/// Returns the number of the device that an open file belongs to.
pub(crate) fn number(client: &Client) -> u32 {
    client.device().pagemap().ops().number()
}

/// Returns a range of addresses, after checking that it is page aligned and not empty.
fn page_range(start: u64, end: u64) -> Result<Range<usize>> {
    let is_aligned = (start | end) % PAGE_SIZE as u64 == 0;
    if !is_aligned || start >= end {
        return Err(EINVAL);
    }
    let address = |number: u64| usize::try_from(number).map_err(|_| EINVAL);
    Ok(address(start)?..address(end)?)
}

/// Returns the requested change.
fn change(
    client: &Client,
    device_of: DeviceOf<'_>,
    argument: &dmirror_advise_set,
) -> Result<Change> {
    let mask = argument.mask;
    if mask == 0 || mask & !MASK != 0 {
        return Err(EINVAL);
    }
    let is_set = |bit| mask & bit != 0;
    let is_unused = |bit, member: u32| is_set(bit) || member == 0;
    let is_peer = argument.location == uapi::DMIRROR_LOCATION_PEER;
    if !is_unused(uapi::DMIRROR_ADVISE_LOCATION, argument.location)
        || !is_unused(uapi::DMIRROR_ADVISE_ACCESS, argument.access)
        || !is_unused(uapi::DMIRROR_ADVISE_ATOMICS, argument.atomics)
        || !is_unused(uapi::DMIRROR_ADVISE_GRANULE, argument.granule)
        || (!is_peer && argument.location_fd != 0)
    {
        return Err(EINVAL);
    }
    let reach = match argument.access {
        uapi::DMIRROR_ADVICE_ACCESS_DEFAULT => Reach::Any,
        uapi::DMIRROR_ADVICE_ACCESS_MIGRATE => Reach::Migrate,
        uapi::DMIRROR_ADVICE_ACCESS_IN_PLACE => Reach::InPlace,
        uapi::DMIRROR_ADVICE_ACCESS_NONE => Reach::Denied,
        _ => return Err(EINVAL),
    };
    let atomics = match argument.atomics {
        uapi::DMIRROR_ADVICE_ATOMICS_DEFAULT => Atomics::Any,
        uapi::DMIRROR_ADVICE_ATOMICS_DEVICE => Atomics::Device,
        uapi::DMIRROR_ADVICE_ATOMICS_SYSTEM => Atomics::System,
        uapi::DMIRROR_ADVICE_ATOMICS_NONE => Atomics::Denied,
        _ => return Err(EINVAL),
    };
    let granule = argument.granule;
    if granule != 0 && !(granule.is_power_of_two() && GRANULES.contains(&granule)) {
        return Err(EINVAL);
    }
    let location = match argument.location {
        uapi::DMIRROR_LOCATION_DEFAULT => Location::Any,
        uapi::DMIRROR_LOCATION_SYSTEM => Location::System,
        uapi::DMIRROR_LOCATION_DEVICE => Location::Device,
        uapi::DMIRROR_LOCATION_PEER => peer(client, device_of, argument.location_fd)?,
        _ => return Err(EINVAL),
    };
    Ok(Change {
        location: is_set(uapi::DMIRROR_ADVISE_LOCATION).then_some(location),
        reach: is_set(uapi::DMIRROR_ADVISE_ACCESS).then_some(reach),
        atomics: is_set(uapi::DMIRROR_ADVISE_ATOMICS).then_some(atomics),
        granule: is_set(uapi::DMIRROR_ADVISE_GRANULE).then_some(granule),
    })
}

/// Returns the location on the device behind a descriptor.
fn peer(client: &Client, device_of: DeviceOf<'_>, fd: i32) -> Result<Location> {
    let peer = device_of(fd)?;
    Ok(match peer == number(client) {
        true => Location::Device,
        false => Location::Peer(peer),
    })
}
