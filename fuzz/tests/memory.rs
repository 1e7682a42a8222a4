//! Decoding what the guard accepts takes no more heap than the guard said.

use milena_fuzz::{check_request, check_response, memory};
use milena_protocol::guard::sample::Sampler;
use milena_protocol::messages::ApiKey;
use milena_protocol::{guard, supported};

fn pairs() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::iter().flat_map(|api| {
        let range = supported(api as i16).unwrap();
        (range.min..=range.max).map(move |version| (api, version))
    })
}

#[test]
fn the_counter_counts() {
    let (_, peak) = memory::peak_of(|| {
        drop(vec![0_u8; 70_000]);
        vec![0_u8; 50_000]
    });
    assert_eq!(peak, 70_000);
}

#[test]
fn valid_and_injured_frames_decode_within_their_cost() {
    let mut accepted = 0;
    for (index, (api, version)) in pairs().enumerate() {
        let mut sampler = Sampler::new(index as u64);
        for _ in 0..200 {
            let response = sampler.response(api as i16, version).unwrap();
            assert!(check_response(api, version, &response));
            let request = sampler.request(api as i16, version).unwrap();
            assert!(check_request(api, version, &request));
            for mut frame in [response, request.clone()] {
                let at = sampler.below(frame.len() as u64) as usize;
                frame[at] = sampler.below(256) as u8;
                accepted += usize::from(check_response(api, version, &frame));
                if frame[..4] == request[..4] {
                    accepted += usize::from(check_request(api, version, &frame));
                }
            }
        }
    }
    assert!(accepted > 10_000, "{accepted}");
}

/// Frames of one array of the cheapest elements, with and without an unknown tag in each: the dearest there are.
#[test]
fn dear_frames_decode_within_their_cost() {
    let mut seen = 0;
    for (api, version) in pairs() {
        let message = guard::response_message(api as i16).unwrap();
        let known = message.version(version).unwrap();
        if !message.is_flexible(known) {
            continue;
        }
        for tags in [&[0][..], &[1, 90, 0], &[2, 90, 0, 91, 0]] {
            for lead in 0..24_usize {
                for width in 0..24_usize {
                    // header, `lead` bytes of 0, the count, elements of `width` bytes of 1 and their tags, the end
                    let header: &[u8] = if api == ApiKey::ApiVersions { &[0; 4] } else { &[0; 5] };
                    let mut frame = header.to_vec();
                    frame.resize(frame.len() + lead, 0);
                    frame.push(101);
                    for _ in 0..100 {
                        frame.resize(frame.len() + width, 1);
                        frame.extend_from_slice(tags);
                    }
                    frame.push(0);
                    seen += usize::from(check_response(api, version, &frame));
                }
            }
        }
    }
    assert!(seen > 50, "{seen}");
}
