//! Again and again: from one image, from generation to generation, at once.

use std::time::Instant;

use anyhow::{Result, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Suite, Whos};

const TIMES: usize = 100;

pub fn add(suite: &mut Suite) {
    suite.add("repeat::hundred_restores_from_one_image", Whos::Both, hundred_restores);
    for program in ["heap", "threads_load", "thread_state", "python"] {
        suite.add(&format!("repeat::ten_generations_of_{program}"), Whos::Both, move |case| {
            Roundtrip::of(program).generations(10).run(case)
        });
    }
    suite.add("repeat::five_copies_at_once", Whos::Both, copies_at_once);
    suite.add("repeat::many_checkpoints_of_one_program", Whos::Both, many_checkpoints);
}

fn hundred_restores(case: &Case) -> Result<()> {
    let program = Roundtrip::of("crowd").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    case.go()?;
    let begun = Instant::now();
    for n in 1..=TIMES {
        let mut restored = case.restore(&image, &[])?;
        let ending = restored.wait()?;
        ensure!(ending == Ending::Exited(0), "restore {n}: {ending:?}, {}", restored.streams());
        ensure!(restored.stdout() == "stack 0\nas expected\n", "restore {n}: {}", restored.streams());
    }
    case.note(&format!("{TIMES} restores took {:?}", begun.elapsed()));
    Ok(())
}

fn copies_at_once(case: &Case) -> Result<()> {
    let program = Roundtrip::of("crowd").start(case)?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    let mut copies = Vec::new();
    for _ in 0..5 {
        copies.push(case.restore_detached(&image, &[])?);
    }
    for copy in &copies {
        ensure!(Case::state(copy.pid).is_some_and(|s| s != 'Z'), "{} is not there", copy.pid);
    }
    case.go()?;
    for copy in &copies {
        case.wait_until("each of them has finished", || copy.output().contains("as expected"))?;
    }
    Ok(())
}

fn many_checkpoints(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("threads_load").start(case)?;
    for _ in 0..20 {
        case.checkpoint(program.pid(), &case.path("image"), &[])?;
    }
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    let mut restored = case.restore(&case.path("image"), &[])?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    Ok(())
}
