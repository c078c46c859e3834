//! An image with something in it changed: one that another machine might have made.

use std::fs::File;
use std::path::Path;

use anyhow::Result;
use ckpt_image::{Codec, Content, Encoder, HOST_ARCHITECTURE, ImageReader, ImageWriter, PageRange};
use serde_json::Value;

/// What is different in the copy of an image.
pub struct Edit<'a> {
    /// What the header says of the processor.
    pub architecture: u16,
    /// Changes the layout.
    pub layout: &'a dyn Fn(&mut Value),
    /// Changes a run of pages: which ones, and their bytes.
    pub pages: &'a dyn Fn(&[PageRange], &mut [u8]),
}

impl Default for Edit<'_> {
    fn default() -> Self {
        Self { architecture: HOST_ARCHITECTURE, layout: &|_| (), pages: &|_, _| () }
    }
}

impl Edit<'_> {
    /// Writes the changed copy of `from`, with right checksums, into the existing file `to`.
    pub fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let mut reader = ImageReader::new(File::open(from)?)?;
        let page_size = reader.header().page_size;
        let file = File::options().write(true).truncate(true).open(to)?;
        let mut writer = ImageWriter::new(file, self.architecture, page_size)?;
        let mut encoder = Encoder::new(page_size, Codec::None)?;
        let mut data = Vec::new();
        while let Some(record) = reader.next_record()? {
            match record.content {
                Content::Layout => {
                    let mut layout = reader.read_json::<Value>()?;
                    (self.layout)(&mut layout);
                    writer.put_layout(&layout)?;
                }
                Content::State { name } => writer.put_state(&name, &reader.read_json::<Value>()?)?,
                Content::Pages { process, ranges } => {
                    reader.read_data(&mut data)?;
                    (self.pages)(&ranges, &mut data);
                    writer.append(&encoder.pages(process, &ranges, &data)?)?;
                }
                Content::FileData { file, offset } => {
                    reader.read_data(&mut data)?;
                    writer.append(&encoder.file_data(file, offset, &data)?)?;
                }
            }
        }
        writer.finish()?;
        Ok(())
    }
}
