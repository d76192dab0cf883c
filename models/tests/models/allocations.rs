//! What a stream asks of the allocator once it runs: nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ecosight_models::yamnet::golden::Sound;
use ecosight_models::{Extras, HOP_SAMPLES, SAMPLE_RATE_HZ, Windower};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // No destructor and no first use that allocates: it may be called at any time of a thread's life.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

// SAFETY: every call goes to the system's allocator with the arguments it came with.
#[allow(unsafe_code, reason = "there is no other way to see allocations")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: what the caller promises is what is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Log-mel, transient numbers, the compact network's picture and the speech judge, with the last
/// window kept as a detector's caller does.
#[test]
fn sound_becomes_windows_without_an_allocation() {
    let second = SAMPLE_RATE_HZ as usize;
    let sound = Sound::Bursts.render(5, 40.0);
    let (first, rest) = sound.split_at(20 * second);
    for extras in [Extras::default(), Extras { ahead: true, speech: true }] {
        for size in [160, 1_000, HOP_SAMPLES, 4 * second] {
            let mut windower = Windower::with(extras);
            let mut last = None;
            let mut windows = 0;
            let mut hear = |sound: &[f32]| {
                for block in sound.chunks(size) {
                    windower.push(block);
                    while let Some(window) = windower.next_window() {
                        last = Some(window);
                        windows += 1;
                    }
                }
            };
            hear(first);
            let before = allocations();
            assert!(before > 0, "they are counted");
            hear(rest);
            assert_eq!(allocations() - before, 0, "{extras:?}, pushes of {size} samples");
            assert!(windows > 80 && last.is_some());
        }
    }
}
