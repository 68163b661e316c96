// SPDX-License-Identifier: GPL-2.0

//! Tests of the meaning of module parameters, `rust/dmirror/params.rs`.

#[path = "../../dmirror/params.rs"]
mod params;

use params::{
    BadParams, DevicePlan, Params, Private, DEFAULT_CAPACITY, DEFAULT_ENGINES, DEFAULT_SPM_SIZE,
    MAX_CAPACITY, MAX_ENGINES,
};
use proptest::prelude::*;

const BLOCK: u64 = 2 << 20;
const DEVICES: u64 = 2;

const NONE: Params = Params {
    capacity: 0,
    vram_base: 0,
    vram_size: 0,
    spm_addr_dev0: 0,
    spm_addr_dev1: 0,
    spm_size: 0,
    engines: 0,
};

fn plan(private: Private, coherent: Option<u64>) -> Result<DevicePlan, BadParams> {
    Ok(DevicePlan {
        private,
        coherent,
        engines: DEFAULT_ENGINES as usize,
    })
}

#[test]
fn parameters_mean_devices_or_are_refused() {
    let default = Private::Lazy {
        bytes: DEFAULT_CAPACITY,
    };
    let vram = |vram_base, vram_size| Params {
        vram_base,
        vram_size,
        ..NONE
    };
    let spm = |spm_addr_dev0, spm_addr_dev1, spm_size| Params {
        spm_addr_dev0,
        spm_addr_dev1,
        spm_size,
        ..NONE
    };
    let capacity = |capacity| Params { capacity, ..NONE };
    let engines = |engines| Params { engines, ..NONE };
    let (at, other) = (1 << 32, 1 << 33);
    for (params, expected) in [
        (NONE, plan(default, None)),
        (capacity(BLOCK), plan(Private::Lazy { bytes: BLOCK }, None)),
        (
            capacity(MAX_CAPACITY),
            plan(
                Private::Lazy {
                    bytes: MAX_CAPACITY,
                },
                None,
            ),
        ),
        (capacity(BLOCK + 1), Err(BadParams::Capacity)),
        (capacity(MAX_CAPACITY + BLOCK), Err(BadParams::Capacity)),
        (
            vram(at, 4 * BLOCK),
            plan(Private::Range { share: 2 * BLOCK }, None),
        ),
        (vram(at, 0), Err(BadParams::HalfOfVram)),
        (vram(0, BLOCK), Err(BadParams::HalfOfVram)),
        (vram(at, BLOCK), Err(BadParams::VramAlignment)),
        (vram(at + 1, 2 * BLOCK), Err(BadParams::VramAlignment)),
        (vram(at, 1), Err(BadParams::VramAlignment)),
        (vram(at, MAX_CAPACITY + 2 * BLOCK), Err(BadParams::VramSize)),
        (
            vram(u64::MAX - BLOCK + 1, 2 * BLOCK),
            Err(BadParams::VramSize),
        ),
        (
            Params {
                capacity: BLOCK,
                ..vram(at, 2 * BLOCK)
            },
            Err(BadParams::CapacityAndVram),
        ),
        (spm(at, other, 0), plan(default, Some(DEFAULT_SPM_SIZE))),
        (spm(at, other, BLOCK), plan(default, Some(BLOCK))),
        (spm(0, 0, BLOCK), Err(BadParams::SpmSizeAlone)),
        (spm(at, 0, 0), Err(BadParams::HalfOfSpm)),
        (spm(0, other, BLOCK), Err(BadParams::HalfOfSpm)),
        (spm(at + 1, other, 0), Err(BadParams::Spm)),
        (spm(at, other + 1, 0), Err(BadParams::Spm)),
        (spm(at, other, BLOCK + 1), Err(BadParams::Spm)),
        (spm(at, other, MAX_CAPACITY + BLOCK), Err(BadParams::Spm)),
        (engines(DEFAULT_ENGINES), plan(default, None)),
        (engines(MAX_ENGINES as u64 + 1), Err(BadParams::Engines)),
        (engines(u64::MAX), Err(BadParams::Engines)),
    ] {
        assert_eq!(params.validate(BLOCK, DEVICES), expected, "{params:?}");
    }
}

proptest! {
    #[test]
    fn what_is_accepted_is_whole_blocks_inside_the_bounds(
        words in prop::array::uniform7(prop_oneof![
            Just(0_u64), (0_u64..64).prop_map(|n| n * BLOCK), any::<u64>(),
        ]),
    ) {
        let [capacity, vram_base, vram_size, spm_addr_dev0, spm_addr_dev1, spm_size, engines] = words;
        let params = Params {
            capacity, vram_base, vram_size, spm_addr_dev0, spm_addr_dev1, spm_size, engines,
        };
        if let Ok(DevicePlan { private, coherent, engines }) = params.validate(BLOCK, DEVICES) {
            prop_assert!((1..=MAX_ENGINES).contains(&engines));
            let bytes = match private {
                Private::Lazy { bytes } => bytes,
                Private::Range { share } => {
                    prop_assert_eq!(share * DEVICES, vram_size);
                    prop_assert!(vram_base.checked_add(vram_size).is_some());
                    share
                }
            };
            for bytes in [Some(bytes), coherent].into_iter().flatten() {
                prop_assert!(bytes > 0 && bytes % BLOCK == 0 && bytes <= MAX_CAPACITY);
            }
        }
    }
}
