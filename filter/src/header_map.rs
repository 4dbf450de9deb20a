//! A message's header fields, fetched in one call and read where they lie, and set.
//!
//! The host answers every question for bytes by calling back into the sandbox for memory, which costs more than all the rest of
//! the question. So the whole map is asked for once. The SDK's own reader copies each field, and panics on
//! names that are not UTF-8.
#![allow(unsafe_code, reason = "the SDK exposes these host calls only through functions that panic")]

use std::ptr::null_mut;

use proxy_wasm::types::MapType;

/// All fields of a message, in the order received.
///
/// ```text
/// count u32 │ (name length u32, value length u32) … │ (name NUL value NUL) …        (little-endian)
/// ```
#[derive(Debug)]
pub(crate) struct HeaderMap(Vec<u8>);

impl HeaderMap {
    /// The fields of the current request or response; none when there is none.
    pub(crate) fn of(message: MapType) -> Self {
        let (mut data, mut size) = (null_mut::<u8>(), 0_usize);
        // SAFETY: the host writes an address and a size, or fails and writes nothing. The memory is what the SDK's
        // `proxy_on_memory_allocate` gave the host for exactly this: a vector of that capacity, given up by its owner.
        let bytes = unsafe {
            if proxy_get_header_map_pairs(message as u32, &raw mut data, &raw mut size) != 0 || data.is_null()
            {
                Vec::new()
            } else {
                Vec::from_raw_parts(data, size, size)
            }
        };
        Self(bytes)
    }

    /// Every field as name and value; as far as the bytes make sense.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (count, rest) =
            self.0.split_first_chunk().map_or((0, &[][..]), |(n, rest)| (u32::from_le_bytes(*n), rest));
        let lengths = rest.as_chunks::<4>().0.as_chunks::<2>().0;
        let count = usize::try_from(count).unwrap_or(0).min(lengths.len());
        let mut texts = rest.get(count * 8..).unwrap_or_default();
        lengths.iter().take(count).map_while(move |[name, value]| {
            Some((
                take(&mut texts, u32::from_le_bytes(*name))?,
                take(&mut texts, u32::from_le_bytes(*value))?,
            ))
        })
    }

    /// The values of the field called `name`, in lower case.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields().filter(move |(field, _)| *field == name.as_bytes()).map(|(_, value)| value)
    }
}

/// Sets a field of the current request, in the place of all lines of that name, or removes it; nothing where there is no
/// request, which the SDK would panic at.
pub(crate) fn set_request_field(name: &str, value: Option<&str>) {
    // SAFETY: the host reads the texts where they lie, before it returns.
    unsafe {
        proxy_remove_header_map_value(REQUEST, name.as_ptr(), name.len());
        if let Some(value) = value {
            let (name, value) = ((name.as_ptr(), name.len()), (value.as_ptr(), value.len()));
            proxy_add_header_map_value(REQUEST, name.0, name.1, value.0, value.1);
        }
    }
}

/// Takes a text of `length` and the NUL behind it off the front of `texts`.
fn take<'a>(texts: &mut &'a [u8], length: u32) -> Option<&'a [u8]> {
    let (text, rest) = texts.split_at_checked(usize::try_from(length).ok()?)?;
    *texts = rest.get(1..)?;
    Some(text)
}

const REQUEST: u32 = MapType::HttpRequestHeaders as u32;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
}
