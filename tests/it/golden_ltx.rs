//! Real files of official releases: see `tests/data/README.md`.

use std::path::{Path, PathBuf};

use brooklet::ltx::{Decoder, Encoder, Encoding, Level, check_txids, merge, parse_file_name};
use brooklet::types::TxidRange;

use crate::image::{Content, apply, content};

/// The releases whose files are kept, and how they store pages.
const RELEASES: [(&str, Encoding); 2] =
    [("litestream-0.5.15", Encoding::Frame), ("litestream-0.5.17", Encoding::Block)];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// One kept replica.
struct Replica {
    dir: PathBuf,
    page_size: u32,
    encoding: Encoding,
}

impl Replica {
    fn segments(&self, level: Level) -> Vec<(TxidRange, Vec<u8>)> {
        let dir = self.dir.join(format!("ltx/{}", level.get()));
        let segment = |name: &String| (parse_file_name(name).unwrap(), std::fs::read(dir.join(name)).unwrap());
        names(&dir).iter().map(segment).collect()
    }

    fn levels(&self) -> Vec<Level> {
        names(&self.dir.join("ltx")).iter().map(|name| Level::new(name.parse().unwrap()).unwrap()).collect()
    }
}

fn replicas() -> Vec<Replica> {
    let mut replicas = Vec::new();
    for (release, encoding) in RELEASES {
        for page_size in names(&data().join(release)) {
            let dir = data().join(release).join(&page_size);
            replicas.push(Replica { dir, page_size: page_size.parse().unwrap(), encoding });
        }
    }
    assert_eq!(replicas.len(), 6, "two releases, three page sizes");
    replicas
}

fn encoded(content: &Content, encoding: Encoding) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), content.header, encoding).unwrap();
    for (pgno, page) in &content.pages {
        encoder.page(*pgno, page).unwrap();
    }
    encoder.finish().unwrap().0
}

#[test]
fn every_release_kept_here_is_tested() {
    let kept: Vec<_> = names(&data()).into_iter().filter(|name| name.starts_with("litestream-0.5.")).collect();
    assert_eq!(kept, RELEASES.map(|(release, _)| release));
}

#[test]
fn every_file_decodes_and_survives_both_encodings() {
    for replica in replicas() {
        for level in replica.levels() {
            for (txids, file) in replica.segments(level) {
                let original = content(&file);
                let header = original.header;
                assert_eq!((header.txids, header.page_size.get()), (txids, replica.page_size));
                assert_eq!((header.generation, header.proof), (None, None));
                assert_eq!(header.wal.is_some(), level == Level::L0 || level == Level::SNAPSHOT);
                assert!(original.encodings.iter().all(|stored| *stored == Some(replica.encoding)));

                for encoding in [Encoding::Block, Encoding::Frame] {
                    let ours = content(&encoded(&original, encoding));
                    assert_eq!((ours.header, &ours.pages), (header, &original.pages));
                }
                let copied = merge(vec![Decoder::new(&file[..]).unwrap()], Vec::new(), txids, replica.encoding);
                assert_eq!(copied.unwrap().0, file, "around the same payloads we write the same bytes");
            }
        }
    }
}

#[test]
fn our_merge_of_captured_segments_is_the_official_one() {
    let mut compared = 0;
    for replica in replicas() {
        let captured = replica.segments(Level::L0);
        check_txids(captured.iter().map(|(txids, _)| *txids)).unwrap();
        for level in [Level::new(1).unwrap(), Level::SNAPSHOT] {
            for (txids, theirs) in replica.segments(level) {
                let covered = captured.iter().filter(|&&(one, _)| txids.min() <= one.min() && one.max() <= txids.max());
                let inputs = covered.map(|(_, file)| Decoder::new(&file[..]).unwrap()).collect();
                let (ours, _) = merge(inputs, Vec::new(), txids, replica.encoding).unwrap();
                let (ours, theirs) = (content(&ours), content(&theirs));
                assert_eq!(ours.pages, theirs.pages, "{level} {txids} in {}", replica.dir.display());
                assert_eq!(ours.header.commit, theirs.header.commit);
                // A snapshot is stamped when it is taken, a merge like its newest input.
                assert!(level == Level::SNAPSHOT || ours.header.timestamp == theirs.header.timestamp);
                compared += 1;
            }
        }
    }
    assert!(compared >= 20, "only {compared} merges to compare with");
}

#[test]
fn applying_the_segments_gives_what_the_official_restore_gave() {
    for replica in replicas() {
        let expected = std::fs::read_to_string(replica.dir.join("restored.txt")).unwrap();
        let captured: Vec<_> = replica.segments(Level::L0);
        let snapshot = replica.segments(Level::SNAPSHOT).pop();
        for chain in [captured, Vec::from_iter(snapshot)] {
            let mut image = Vec::new();
            for (_, file) in chain {
                apply(&mut image, &content(&file));
            }
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &image);
            assert_eq!(format!("{} bytes, CRC-32 {crc:08x}\n", image.len()), expected, "{}", replica.dir.display());
        }
    }
}
