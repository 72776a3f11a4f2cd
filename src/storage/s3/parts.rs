//! Bodies, cut into parts.
//!
//! Always true: no more of a body is in memory than the parts that were asked
//! for; every part but the last is as long as was asked.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::io;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::super::{Body, Error, ErrorKind, Key, Progress, Result};

/// The most parts an upload can have.
pub(super) const MOST_PARTS: u64 = 10_000;

/// How many parts have the same length, once they grow.
const DOUBLE_EVERY: u64 = 500;

/// How long each part of an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    /// The length of the body is known, so one size can be chosen that fits.
    Even(u64),
    /// It is not. Half of the parts are of one size, which some services want of
    /// all of them; after that they become twice as long every so often, so that
    /// the last one ends behind 5 TB even if the first has 5 MB.
    Growing(u64),
}

impl Sizes {
    pub(super) fn of(part_size: u64, body: Option<u64>) -> Self {
        let part_size = part_size.max(1);
        match body {
            Some(length) => Self::Even(part_size.max(length.div_ceil(MOST_PARTS))),
            None => Self::Growing(part_size),
        }
    }

    /// The length of part `number`, which counts from 0.
    pub(super) fn of_part(self, number: u64) -> usize {
        let size = match self {
            Self::Even(size) => size,
            Self::Growing(first) => {
                let doublings = number.checked_sub(MOST_PARTS / 2).map_or(0, |behind| behind / DOUBLE_EVERY + 1);
                u32::try_from(doublings).ok().and_then(|n| first.checked_shl(n)).unwrap_or(u64::MAX)
            }
        };
        usize::try_from(size).unwrap_or(usize::MAX)
    }
}

/// A body on its way out.
pub(super) enum Source {
    Bytes(Bytes),
    File { file: File, length: u64, path: PathBuf },
    Stream { chunks: BoxStream<'static, io::Result<Bytes>>, spare: Bytes },
}

impl Source {
    pub(super) async fn open(body: Body) -> Result<Self> {
        match body {
            Body::Bytes(bytes) => Ok(Self::Bytes(bytes)),
            // Asked again behind its end, a stream may do anything.
            Body::Stream(chunks) => Ok(Self::Stream { chunks: chunks.fuse().boxed(), spare: Bytes::new() }),
            Body::File(path) => {
                let opened = async {
                    let file = File::open(&path).await?;
                    let length = file.metadata().await?.len();
                    io::Result::Ok((file, length))
                };
                match opened.await {
                    Ok((file, length)) => Ok(Self::File { file, length, path }),
                    Err(e) => Err(unreadable(&path, e)),
                }
            }
        }
    }

    /// What is left of it, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File { length, .. } => Some(*length),
            Self::Stream { .. } => None,
        }
    }

    /// The next `size` bytes; fewer at the end, and none behind it.
    pub(super) async fn next(&mut self, size: usize, key: &Key) -> Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.split_to(size.min(bytes.len()))),
            Self::File { file, length, path } => {
                let size = usize::try_from(*length).unwrap_or(usize::MAX).min(size);
                let mut part = vec![0; size];
                let progress = Progress::current();
                for piece in part.chunks_mut(PIECE) {
                    file.read_exact(piece).await.map_err(|e| unreadable(path, e))?;
                    progress.moved();
                }
                *length -= size as u64;
                Ok(part.into())
            }
            Self::Stream { chunks, spare } => {
                let mut part = BytesMut::new();
                while part.len() < size {
                    if spare.is_empty() {
                        match chunks.next().await {
                            Some(chunk) => *spare = chunk.map_err(|e| Error::broken_off(key, e))?,
                            None => break,
                        }
                        continue;
                    }
                    let taken = spare.split_to(spare.len().min(size - part.len()));
                    part.extend_from_slice(&taken);
                }
                Ok(part.freeze())
            }
        }
    }
}

/// Bytes of a file read between two signs of life.
const PIECE: usize = 1024 * 1024;

fn unreadable(path: &std::path::Path, e: io::Error) -> Error {
    Error::new(ErrorKind::Refused, format!("cannot read {}", path.display())).caused_by(e)
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn any_body_that_s3_takes_fits_into_ten_thousand_parts() {
        for length in [0, 5 * MIB, 50_000 * MIB, 50_001 * MIB, 5 * MIB * MIB] {
            let Sizes::Even(size) = Sizes::of(5 * MIB, Some(length)) else { panic!("the length is known") };
            assert!(size >= 5 * MIB && size * MOST_PARTS >= length, "{length}: {size}");
        }
        let growing = Sizes::of(5 * MIB, None);
        let total: u64 = (0..MOST_PARTS).map(|n| growing.of_part(n) as u64).sum();
        assert!(total >= 5_000_000_000_000, "{total}");
        assert_eq!(growing.of_part(4999) as u64, 5 * MIB);
        assert_eq!(growing.of_part(5000) as u64, 10 * MIB);
        assert_eq!(growing.of_part(5500) as u64, 20 * MIB);
        assert_eq!(Sizes::of(8 * MIB, Some(MIB)).of_part(7) as u64, 8 * MIB);
    }

    #[tokio::test]
    async fn every_body_is_cut_into_the_same_parts() {
        let content: Vec<u8> = (0..=255).cycle().take(10_007).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        std::fs::write(&path, &content).unwrap();
        let chunks: Vec<_> = content.chunks(777).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let strict = stream::unfold(chunks.into_iter(), |mut rest| async move { Some((rest.next()?, rest)) });
        for body in [Body::from(content.clone()), Body::File(path), Body::Stream(strict.boxed())] {
            let mut source = Source::open(body).await.unwrap();
            let mut parts = Vec::new();
            loop {
                let part = source.next(1000, &Key::ROOT).await.unwrap();
                if part.is_empty() {
                    break;
                }
                parts.push(part);
            }
            let lengths: Vec<_> = parts.iter().map(Bytes::len).collect();
            assert_eq!(lengths, [vec![1000; 10], vec![7]].concat());
            assert!(parts.concat() == content);
        }
    }
}
