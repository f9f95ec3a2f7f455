//! No test: I/O through a binding beside the export mounted by hand, in turns, for docs/performance.md. The machine's
//! processor is a program where nothing accelerates it, so only the ratios say something.

use super::{NAS, configure, image};
use crate::machine::Machine as _;
use crate::node::Node;
use crate::qemu::Qemu;
use crate::vm::wait_for_acknowledged;
use anyhow::{Context as _, ensure};

const ROUNDS: usize = 5;
/// What is measured, in the order in which `MEASURE` prints it.
const WHAT: [&str; 5] = [
    "sequential write, 1 MiB",
    "sequential read, 1 MiB",
    "random read, 4 KiB",
    "random write, 4 KiB, fsync of every 16th",
    "unpack and remove 100 files",
];

/// Measures at the directory `$place`: KiB a second, and files a second.
const MEASURE: &str = r#"
run() {
    /opt/load/ld.so --library-path /opt/load/lib /opt/load/fio --name=f --ioengine=psync --fallocate=none --size=8m \
        --filename="$place/fio" --minimal --terse-version=3 "$@" | awk -F';' '{ print ($7 > $48 ? $7 : $48) }'
}
run --rw=write --bs=1m --end_fsync=1
run --rw=read --bs=1m
run --rw=randread --bs=4k --time_based --runtime=2
run --rw=randwrite --bs=4k --time_based --runtime=2 --fsync=16
begun=$EPOCHREALTIME
tar -xf /root/files.tar -C "$place"
(cd "$place/files"; rm -- *)
rmdir "$place/files"
echo "$begun $EPOCHREALTIME" | awk '{ print 100 / ($2 - $1) }'
"#;

pub fn measure(node: &Node<Qemu>) -> anyhow::Result<()> {
    configure(node, image::SIZES[0], "")?;
    node.register("raw-nas", "raw_exec", "raw")?;
    wait_for_acknowledged(node, "raw-nas", 1)?;
    let binding = node.place_of("raw-nas")?;
    node.machine.run(&format!(
        "mkdir -p /mnt/hand /root/files
         mount -t nfs -o vers=4.2,nosharecache {NAS}:/srv/export /mnt/hand
         mkdir /mnt/hand/once /mnt/hand/again
         for number in $(seq 100); do echo sixteen bytes >/root/files/$number; done
         tar -cf /root/files.tar -C /root files"
    ))?;
    let places = ["/mnt/hand/once", "/mnt/hand/again", binding.as_str()];
    let mut found = vec![[const { Vec::<f64>::new() }; 3]; WHAT.len()];
    for round in 0..=ROUNDS {
        for turn in 0..places.len() {
            let which = (round + turn) % places.len();
            let said = node.machine.run(&format!("place={}\n{MEASURE}", places[which]))?;
            let values: Vec<f64> = said.lines().map(str::parse).collect::<Result<_, _>>().context(said.clone())?;
            ensure!(values.len() == WHAT.len(), "{said}");
            if round > 0 {
                found.iter_mut().zip(values).for_each(|(samples, value)| samples[which].push(value));
            }
        }
        node.machine.note(&format!("round {round} of {ROUNDS}"));
    }
    println!(
        "| medians of {ROUNDS} rounds' ratios to the mount by hand | through saddlebag | noise |\n| --- | ---: | ---: |"
    );
    for (what, samples) in WHAT.iter().zip(&found) {
        let ratios = |which: usize| -> Vec<f64> {
            let mut all: Vec<f64> =
                samples[which].iter().zip(&samples[0]).map(|(one, by_hand)| one / by_hand).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (noise, ours) = (ratios(1), ratios(2));
        println!("| {what} | {:.2} | {:.2} to {:.2} |", ours[ROUNDS / 2], noise[0], noise[ROUNDS - 1]);
    }
    Ok(())
}
