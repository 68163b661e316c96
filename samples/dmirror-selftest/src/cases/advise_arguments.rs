// SPDX-License-Identifier: GPL-2.0

//! Arguments of ADVISE_SET and ADVISE_GET: each wrong one returns the errno of the header.

use std::os::fd::AsRawFd;

use dmirror_client::advice::{Access, Advised, Change};

use super::advise::advised;
use super::queue_arguments::pair;
use crate::prelude::*;

cases! { "advise":
    set_arguments = "Ranges, masks, values and descriptors that are none are refused, and nothing changes.",
    get_arguments = "Addresses and limits that are none are refused.",
    sizes = "The structs may be larger than the module knows, if what is too much is 0; not smaller.",
    bad_struct = "A struct that cannot be accessed is EFAULT.",
}

/// A struct as words of 8 bytes.
type Words = Vec<u64>;

/// Creates memory that begins with a struct.
fn argument(words: &Words) -> Result<Region, Errno> {
    let argument = Region::anonymous(2).map_err(|_| Errno::ENOMEM)?;
    for (index, word) in words.iter().enumerate() {
        argument.store(index, *word);
    }
    Ok(argument)
}

/// Sends a struct to a device.
fn send(device: &Device, (number, size): (u32, usize), words: &Words) -> Result<(), Errno> {
    device.call_at(number, size, &argument(words)?)
}

/// The members of ADVISE_SET except for the first two.
#[derive(Clone, Copy)]
struct Set {
    addr: u64,
    len: u64,
    mask: u32,
    location: u32,
    fd: i32,
    access: u32,
    atomics: u32,
    granule: u32,
}

impl Set {
    /// Returns members that set all attributes of a region, with the system as the location.
    fn good(region: &Region) -> Self {
        Self {
            addr: region.addr(),
            len: region.len() as u64,
            mask: 15,
            location: 1,
            fd: 0,
            access: 1,
            atomics: 1,
            granule: 65536,
        }
    }

    /// Sets the location to the peer that a descriptor names.
    fn peer(&mut self, fd: i32) {
        (self.location, self.fd) = (3, fd);
    }

    fn words(self) -> Words {
        vec![
            pair(48, 0),
            self.addr,
            self.len,
            pair(self.mask, self.location),
            pair(u32::from_ne_bytes(self.fd.to_ne_bytes()), self.access),
            pair(self.atomics, self.granule),
        ]
    }
}

/// A fault in a valid call: its description, the change that makes it, and the errno.
type Wrong<'a> = (&'a str, &'a dyn Fn(&mut Set), Errno);

fn set_arguments(WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(4)?;
    let page = page_size() as u64;
    let set = |words: Words| send(&device, Device::ADVISE_SET, &words);
    let null = File::open("/dev/null")?;
    let (of_others, closed) = (null.as_raw_fd(), 987_654);
    let (wraps, last) = (page.wrapping_neg(), (page * 4).wrapping_neg());
    let (inval, badf, fault) = (Errno::EINVAL, Errno::EBADF, Errno::EFAULT);
    let table: [Wrong<'_>; 24] = [
        ("an address between pages", &|s| s.addr += 8, inval),
        ("a length between pages", &|s| s.len -= 8, inval),
        ("no length", &|s| s.len = 0, inval),
        ("a range that wraps around", &|s| s.len = wraps, inval),
        ("the end of all addresses", &|s| s.addr = last, inval),
        ("no mask", &|s| s.mask = 0, inval),
        ("an unknown bit", &|s| s.mask |= 16, inval),
        ("the last bit", &|s| s.mask |= 1 << 31, inval),
        ("a location that is not set", &|s| s.mask &= !1, inval),
        ("an access that is not set", &|s| s.mask &= !2, inval),
        ("atomics that are not set", &|s| s.mask &= !4, inval),
        ("a granule that is not set", &|s| s.mask &= !8, inval),
        ("an unknown location", &|s| s.location = 4, inval),
        ("an unknown access", &|s| s.access = 4, inval),
        ("unknown atomics", &|s| s.atomics = 4, inval),
        ("a small granule", &|s| s.granule = 2048, inval),
        (
            "a large granule",
            &|s| s.granule = 2 * hpage_pmd_size() as u32,
            inval,
        ),
        ("a crooked granule", &|s| s.granule = 12288, inval),
        ("a descriptor without a peer", &|s| s.fd = 1, inval),
        ("a descriptor of others", &|s| s.peer(of_others), inval),
        ("a descriptor of nothing", &|s| s.peer(closed), badf),
        ("a negative descriptor", &|s| s.peer(-1), badf),
        ("nothing", &|s| (s.addr, s.len) = (page, page), fault),
        ("the kernel", &|s| s.addr = 0xffff_8000_0000_0000, fault),
    ];
    for (what, change, errno) in table {
        let mut wrong = Set::good(&region);
        change(&mut wrong);
        equal(what, set(wrong.words()), Err(errno))?;
    }
    let mut words = Set::good(&region).words();
    words[0] = pair(48, 1);
    equal("a flag", set(words), Err(inval))?;
    let nothing = Advised::nothing(region.range().end());
    equal("advice after all that", advised(&device, &region)?, nothing)?;
    for_all(
        [page_size(), 2 * page_size(), hpage_pmd_size(), 0],
        |granule| {
            let granule = granule as u32;
            let mut good = Set::good(&region);
            good.granule = granule;
            set(good.words())?;
            let seen = advised(&device, &region)?.granule;
            equal("granule", seen, granule)
        },
    )
}

/// Returns the struct of ADVISE_GET.
fn get(addr: u64, limit: u64, pad: u32) -> Words {
    vec![pair(56, 0), addr, limit, 0, 0, 0, pair(0, pad)]
}

fn get_arguments(WithEngines(device): WithEngines) -> Result<()> {
    let page = page_size() as u64;
    for (what, words, answer) in [
        ("all", get(0, page.wrapping_neg(), 0), Ok(())),
        ("one page", get(page, 2 * page, 0), Ok(())),
        ("nothing", get(page, page, 0), Err(Errno::EINVAL)),
        ("less than that", get(2 * page, page, 0), Err(Errno::EINVAL)),
        ("a crooked address", get(8, page, 0), Err(Errno::EINVAL)),
        ("a crooked limit", get(0, page + 8, 0), Err(Errno::EINVAL)),
        ("something unused", get(0, page, 1), Err(Errno::EINVAL)),
    ] {
        equal(what, send(&device, Device::ADVISE_GET, &words), answer)?;
    }
    let last = device.advice_at(0, page)?;
    equal("the limit", last, Advised::nothing(page))
}

fn sizes(WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(1)?;
    let set = Set::good(&region).words();
    let get = get(region.addr(), region.range().end(), 0);
    for (command, words) in [(Device::ADVISE_SET, &set), (Device::ADVISE_GET, &get)] {
        let (_, size) = command;
        for (said, last, answer) in [
            (0, 0, Err(Errno::EINVAL)),
            (size - 1, 0, Err(Errno::EINVAL)),
            (size, 0, Ok(())),
            (size + 8, 0, Ok(())),
            (size + 8, 1, Err(Errno::E2BIG)),
            (4096, 0, Ok(())),
            (4096, 1, Err(Errno::E2BIG)),
            (4097, 0, Err(Errno::E2BIG)),
        ] {
            let mut words = words.clone();
            words[0] = pair(said as u32, 0);
            if last != 0 {
                words.resize(said / 8, 0);
                words[said / 8 - 1] = last;
            }
            let what = format!("size {said} of {size}, with {last} at its end");
            equal(&what, send(&device, command, &words), answer)?;
        }
    }
    Ok(())
}

fn bad_struct(WithEngines(device): WithEngines) -> Result<()> {
    let region = Region::anonymous(1)?;
    device.advise(region.range(), Change::new().access(Access::InPlace))?;
    let argument = argument(&get(region.addr(), region.range().end(), 0))?;
    for ((number, size), protection) in [
        (Device::ADVISE_GET, Protection::Read),
        (Device::ADVISE_GET, Protection::None),
        (Device::ADVISE_SET, Protection::None),
    ] {
        argument.protect(0..1, protection)?;
        let answer = device.call_at(number, size, &argument);
        let what = format!("a struct with {protection:?}");
        equal(&what, answer, Err(Errno::EFAULT))?;
    }
    Ok(())
}
