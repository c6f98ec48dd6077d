//! What fuzzers found stays found: every case under `tests/fuzz/cases`, run as an ordinary test.

use std::{fs, path::Path};

use tests::fuzzing::TARGETS;

#[test]
fn every_case_of_every_target_holds() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/cases");
    for (target, run) in TARGETS {
        let folder = cases.join(target);
        let files =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("a folder of cases").path();
            println!("{}", path.display());
            run(&fs::read(&path).expect("a case"));
            count += 1;
        }
        assert!(count > 0, "{target} has no case");
    }
}
