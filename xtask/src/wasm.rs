//! Just enough of the WebAssembly binary format to list what a module imports and exports, and to rename exports and leave them out.
//!
//! A module is a header and sections, each an id, a length and its bytes. Every section but the exports is copied as
//! it is.

use anyhow::{Context as _, Result, bail};

/// A module's sections, in order.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    sections: Vec<(u8, &'a [u8])>,
}

impl<'a> Module<'a> {
    /// Reads the sections of a module.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Module<'a>> {
        let mut rest = Reader(bytes.strip_prefix(HEADER).context("no header of a version 1 module")?);
        let mut sections = Vec::new();
        while !rest.0.is_empty() {
            let id = rest.byte()?;
            let size = rest.number()?;
            sections.push((id, rest.take(size)?));
        }
        Ok(Module { sections })
    }

    /// Its imports as `module.name`.
    pub(crate) fn imports(&self) -> Result<Vec<String>> {
        let mut reader = self.section(IMPORTS);
        let mut imports = Vec::new();
        for _ in 0..reader.count()? {
            let (module, name) = (reader.name()?, reader.name()?);
            match reader.byte()? {
                FUNCTION => drop(reader.number()?),
                kind => bail!("`{module}.{name}` is an import of kind {kind}: only functions are expected"),
            }
            imports.push(format!("{module}.{name}"));
        }
        Ok(imports)
    }

    /// The names of its exports.
    pub(crate) fn exports(&self) -> Result<Vec<&'a str>> {
        Ok(self.export_entries()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The module with only the exports for which there is a `name`, under that.
    pub(crate) fn with_exports<'n>(&self, name: &dyn Fn(&str) -> Option<&'n str>) -> Result<Vec<u8>> {
        let mut module = HEADER.to_vec();
        for (id, content) in &self.sections {
            if *id != EXPORTS {
                push_section(&mut module, *id, content);
                continue;
            }
            let entries = self.export_entries()?.into_iter();
            let entries: Vec<_> = entries.filter_map(|(old, what)| Some((name(old)?, what))).collect();
            let mut content = Vec::new();
            push_number(&mut content, entries.len());
            for (name, what) in entries {
                push_number(&mut content, name.len());
                content.extend_from_slice(name.as_bytes());
                content.extend_from_slice(what);
            }
            push_section(&mut module, EXPORTS, &content);
        }
        Ok(module)
    }

    /// Each export's name, and the bytes that say what it is.
    fn export_entries(&self) -> Result<Vec<(&'a str, &'a [u8])>> {
        let mut reader = self.section(EXPORTS);
        let mut entries = Vec::new();
        for _ in 0..reader.count()? {
            let name = reader.name()?;
            let begin = reader.0;
            reader.byte()?;
            reader.number()?;
            entries.push((name, &begin[..begin.len() - reader.0.len()]));
        }
        Ok(entries)
    }

    fn section(&self, wanted: u8) -> Reader<'a> {
        Reader(self.sections.iter().find(|(id, _)| *id == wanted).map_or(&[], |(_, content)| content))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).context("the module ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// The length of a vector; a section that is absent holds none.
    fn count(&mut self) -> Result<usize> {
        if self.0.is_empty() { Ok(0) } else { self.number() }
    }

    /// An unsigned number in LEB128, of 32 bits at most.
    fn number(&mut self) -> Result<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        bail!("a number is longer than 32 bits")
    }

    fn name(&mut self) -> Result<&'a str> {
        let length = self.number()?;
        Ok(std::str::from_utf8(self.take(length)?)?)
    }
}

fn push_section(module: &mut Vec<u8>, id: u8, content: &[u8]) {
    module.push(id);
    push_number(module, content.len());
    module.extend_from_slice(content);
}

fn push_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

const HEADER: &[u8] = b"\0asm\x01\0\0\0";
const IMPORTS: u8 = 2;
const EXPORTS: u8 = 7;
const FUNCTION: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    /// `(module (import "env" "log" (func)) (func (export "run")) (func (export "idle")))`, without its code.
    fn sample() -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        push_section(&mut bytes, 1, b"\x01\x60\0\0");
        push_section(&mut bytes, IMPORTS, b"\x01\x03env\x03log\0\0");
        push_section(&mut bytes, 3, b"\x02\0\0");
        push_section(&mut bytes, EXPORTS, b"\x02\x03run\0\x01\x04idle\0\x02");
        push_section(&mut bytes, 0, &[b'x'; 300]);
        bytes
    }

    #[test]
    fn imports_and_exports_are_listed() {
        let bytes = sample();
        let module = Module::parse(&bytes).unwrap();
        assert_eq!(module.imports().unwrap(), ["env.log"]);
        assert_eq!(module.exports().unwrap(), ["run", "idle"]);
    }

    #[test]
    fn only_the_exports_change() {
        let bytes = sample();
        let module = Module::parse(&bytes).unwrap();
        let same = |name: &str| ["run", "idle"].into_iter().find(|same| *same == name);
        assert_eq!(module.with_exports(&same).unwrap(), bytes);
        let trimmed = module.with_exports(&|name| (name == "run").then_some("walk")).unwrap();
        let trimmed = Module::parse(&trimmed).unwrap();
        assert_eq!(trimmed.exports().unwrap(), ["walk"]);
        let others = |module: &Module<'_>| -> Vec<Vec<u8>> {
            module
                .sections
                .iter()
                .filter(|(id, _)| *id != EXPORTS)
                .map(|(_, content)| content.to_vec())
                .collect()
        };
        assert_eq!(others(&trimmed), others(&module));
    }

    #[test]
    fn a_module_that_is_cut_off_is_an_error() {
        let bytes = sample();
        for length in [0, 7, 9, 12, bytes.len() - 1] {
            assert!(Module::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
