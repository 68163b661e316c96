// SPDX-License-Identifier: GPL-2.0

use super::*;

#[test]
fn errors_say_which_queue() {
    let error = |request, queue| QueueError {
        request,
        queue,
        errno: Errno::ENOENT,
    };
    let text = error(Request::Wait, Some(3)).to_string();
    assert_eq!(text, "WAIT of queue 3: ENOENT: No such file or directory");
    let text = error(Request::Query, None).to_string();
    assert!(text.starts_with("QUERY: ENOENT"), "{text}");
}

/// A file without these commands returns ENOTTY, and drop sends at most one command.
#[test]
fn what_is_no_device_refuses() {
    let device = Device::open("/dev/null").unwrap();
    assert_eq!(device.query().unwrap_err().errno, Errno::ENOTTY);
    let made = device.queue(Options::new(1)).unwrap_err();
    assert_eq!(made.errno, Errno::ENOTTY);
    let queue = device.queue_of_number(5);
    let error = queue.submit(0, 1).unwrap_err();
    assert_eq!((error.queue, error.errno), (Some(5), Errno::ENOTTY));
}
