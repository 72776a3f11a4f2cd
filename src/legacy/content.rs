//! The bytes inside an object: decrypted, unpacked, and checked as they come.
//!
//! Always true: `Content` reports its end only if the object ended there too,
//! with the checksum that belongs there. Memory is that of one LZ4 block.

use std::io::{self, Read};

use age::x25519::Identity;
use lz4_flex::frame::FrameDecoder;

use super::error::{Damage, Error};
use crate::types::Secret;

/// How age files begin; an LZ4 frame begins otherwise.
const AGE_MAGIC: &[u8] = b"age-encryption.org/";

/// The keys that open what Litestream 0.3 encrypted.
#[derive(Clone, Default)]
pub struct Keys(Vec<Identity>);

impl Keys {
    /// Reads the identities of the config.
    pub fn parse(identities: &[Secret]) -> Result<Self, Error> {
        let parse = |(at, text): (usize, &Secret)| {
            text.reveal().trim().parse().map_err(|reason| Error::Identity { number: at + 1, reason })
        };
        identities.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// What is inside one object.
pub struct Content<R: Read> {
    unpacked: FrameDecoder<Ended<Opened<R>>>,
    /// The decoder said that the frame is over, and everything agreed.
    done: bool,
}

impl<R: Read> Content<R> {
    /// Looks at the first bytes and finds out how to read the rest.
    pub fn new(mut object: R, keys: &Keys) -> Result<Self, Damage> {
        let mut start = vec![0; AGE_MAGIC.len()];
        let mut filled = 0;
        while filled < start.len() {
            match object.read(&mut start[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) => return Err(Damage::Unpack(error)),
            }
        }
        start.truncate(filled);
        if start.is_empty() {
            return Err(Damage::Empty);
        }
        let encrypted = start == AGE_MAGIC;
        let stored = io::Cursor::new(start).chain(object);
        let opened = match encrypted {
            false => Opened::Plain(stored),
            true if keys.0.is_empty() => return Err(Damage::Locked),
            true => {
                let envelope = age::Decryptor::new(stored).map_err(Damage::Decrypt)?;
                let keys = keys.0.iter().map(|key| key as &dyn age::Identity);
                Opened::Encrypted(Box::new(envelope.decrypt(keys).map_err(Damage::Decrypt)?))
            }
        };
        Ok(Self { unpacked: FrameDecoder::new(Ended { inner: opened, dry: false }), done: false })
    }

    /// Fills the buffer as far as there is content; less only at the end.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<usize, Damage> {
        let mut filled = 0;
        while filled < out.len() && !self.done {
            match self.unpacked.read(&mut out[filled..]) {
                Ok(0) => self.end()?,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Damage::Truncated),
                Err(error) => return Err(Damage::Unpack(error)),
            }
        }
        Ok(filled)
    }

    /// The decoder takes an end of the input between two blocks for the end of
    /// the frame. It is, only if nobody has looked for more bytes in vain.
    fn end(&mut self) -> Result<(), Damage> {
        let object = self.unpacked.get_mut();
        if object.dry {
            return Err(Damage::Truncated);
        }
        match object.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(Damage::Trailing),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Damage::Truncated),
            Err(error) => return Err(Damage::Unpack(error)),
        }
        self.done = true;
        Ok(())
    }
}

type Stored<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// An object without its envelope.
enum Opened<R: Read> {
    Plain(Stored<R>),
    Encrypted(Box<age::stream::StreamReader<Stored<R>>>),
}

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stored) => stored.read(out),
            Self::Encrypted(stored) => stored.read(out),
        }
    }
}

/// Remembers whether somebody met the end.
struct Ended<R> {
    inner: R,
    dry: bool,
}

impl<R: Read> Read for Ended<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.dry |= read == 0 && !out.is_empty();
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn packed(content: &[u8]) -> Vec<u8> {
        let info =
            FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent).content_checksum(true);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(object: &[u8], keys: &Keys) -> Result<Vec<u8>, Damage> {
        let mut content = Content::new(object, keys)?;
        let mut found = vec![0; 1 << 20];
        let size = content.fill(&mut found)?;
        found.truncate(size);
        Ok(found)
    }

    /// Content of several blocks that compresses a little.
    fn sample() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 20).to_le_bytes()).collect()
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let sample = sample();
        assert!(unpacked(&packed(&sample), &Keys::default()).unwrap() == sample);
        assert_eq!(unpacked(&packed(b""), &Keys::default()).unwrap(), b"");
    }

    #[test]
    fn every_truncation_is_noticed() {
        let object = packed(&sample());
        // Block borders are among these, where the decoder alone sees an end.
        let cuts = (0..200).chain((200..object.len()).step_by(997)).chain(object.len() - 200..object.len());
        for cut in cuts {
            assert!(unpacked(&object[..cut], &Keys::default()).is_err(), "cut at {cut}");
        }
        let mut at = 7;
        while at < object.len() - 8 {
            assert!(unpacked(&object[..at], &Keys::default()).is_err(), "cut between blocks at {at}");
            let size = u32::from_le_bytes(object[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
            at += 4 + size as usize;
        }
        assert_eq!(at, object.len() - 8, "the walk along the blocks ends at the end mark");
    }

    #[test]
    fn flipped_and_added_bytes_are_noticed() {
        let object = packed(&sample());
        for at in (0..object.len()).step_by(1009).chain(0..7).chain(object.len() - 4..object.len()) {
            let mut damaged = object.clone();
            damaged[at] ^= 1;
            assert!(unpacked(&damaged, &Keys::default()).is_err(), "flipped at {at}");
        }
        let mut longer = object;
        longer.push(0);
        assert!(matches!(unpacked(&longer, &Keys::default()), Err(Damage::Trailing)));
    }

    #[test]
    fn an_envelope_opens_with_its_key_only() {
        let key = Identity::generate();
        let object = age::encrypt(&key.to_public(), &packed(b"hello")).unwrap();
        let other = Keys(vec![Identity::generate()]);
        let both = Keys(vec![Identity::generate(), key]);
        assert_eq!(unpacked(&object, &both).unwrap(), b"hello");
        assert!(matches!(unpacked(&object, &other), Err(Damage::Decrypt(_))));
        assert!(matches!(unpacked(&object, &Keys::default()), Err(Damage::Locked)));
        assert!(matches!(unpacked(b"", &both), Err(Damage::Empty)));
        for cut in 1..object.len() {
            assert!(unpacked(&object[..cut], &both).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_number() {
        let good = Identity::generate().to_string();
        let good = Secret::new(age::secrecy::ExposeSecret::expose_secret(&good).to_owned());
        assert!(Keys::parse(std::slice::from_ref(&good)).is_ok());
        let refused = Keys::parse(&[good, Secret::new("/etc/key.txt")]);
        assert!(matches!(refused, Err(Error::Identity { number: 2, .. })));
    }
}
