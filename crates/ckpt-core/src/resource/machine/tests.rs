#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use super::*;

fn with(features: &[&str]) -> Machine {
    Machine { cpu_features: features.iter().map(|&feature| feature.to_owned()).collect(), ..Machine::this() }
}

#[test]
fn what_one_machine_has_and_another_lacks() {
    let (new, old) = (with(&["sse2", "avx2", "avx512f"]), with(&["sse2", "avx2", "fma4"]));
    assert_eq!(new.missing_from(&old), ["avx512f"]);
    assert_eq!(old.missing_from(&new), ["fma4"]);
    assert!(new.missing_from(&new).is_empty() && with(&[]).missing_from(&old).is_empty());
}

#[test]
fn this_machine_is_described() {
    let this = Machine::this();
    assert!(this.missing_from(&Machine::this()).is_empty());
    for baseline in ["fpu", "cx8", "cmov", "mmx", "fxsr", "sse", "sse2"] {
        assert!(this.cpu_features.contains(baseline), "every x86-64 has {baseline}: {:?}", this.cpu_features);
    }
    for other in ["vmx", "svm", "hypervisor", "constant_tsc", "smep", "ht", ""] {
        assert!(!this.cpu_features.contains(other), "{other} is nothing that a program can execute");
    }
    assert_eq!(this.kernel, std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    let components: Vec<_> = this.xsave_components().iter().map(|c| (c.bit, c.offset, c.size)).collect();
    assert_eq!(components, this.xsave);
}

fn environ(entries: &[(&str, String)]) -> Vec<u8> {
    entries.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

const GLIBC: [&str; 2] = ["/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"];
const OLDER_GLIBC: [&str; 2] = ["/lib/x86_64-linux-gnu/libc-2.31.so", "/lib/x86_64-linux-gnu/ld-2.31.so"];

fn of_program(environment: &[(&str, String)], mapped: &[&str]) -> Machine {
    Machine::of_program(&environ(environment), mapped.iter().map(Path::new))
}

#[test]
fn what_glibc_was_told_not_to_use_is_not_needed() {
    let told = |tunables: &str| [("PATH", "/bin".to_owned()), ("GLIBC_TUNABLES", tunables.to_owned())];
    let masked =
        masked_features(&environ(&told("glibc.malloc.check=1:glibc.cpu.hwcaps=-AVX2,Prefer_ERMS,-AVX512F,-LZCNT")));
    assert_eq!(masked.iter().map(String::as_str).collect::<Vec<_>>(), ["AVX2", "AVX512F", "LZCNT"]);
    for feature in ["avx2", "avx512f", "avx512_vnni", "abm"] {
        assert!(is_masked(feature, &masked), "{feature}");
    }
    for feature in ["avx", "sse2", "bmi2", "sha_ni"] {
        assert!(!is_masked(feature, &masked), "{feature}");
    }
    let none = masked_features(&environ(&told("glibc.cpu.hwcaps=-AVX2:glibc.cpu.hwcaps=AVX")));
    assert!(none.is_empty(), "the last one holds: {none:?}");
    let this = Machine::this();
    for glibc in [GLIBC, OLDER_GLIBC] {
        let machine = of_program(&told("glibc.cpu.hwcaps=-SSSE3"), &glibc);
        assert_eq!(this.missing_from(&machine), ["ssse3"]);
    }
    let other = of_program(&told("glibc.cpu.hwcaps=-SSSE3"), &["/lib/ld-musl-x86_64.so.1", "/bin/program"]);
    assert_eq!(other.cpu_features, this.cpu_features, "nobody reads the tunables there");
}

#[test]
fn a_portable_program_needs_the_oldest_machine_and_no_room_for_registers() {
    let environment = portable_beside(Some("glibc.malloc.check=1:glibc.cpu.hwcaps=-AVX"));
    assert_eq!(environment[0].0, "GLIBC_TUNABLES");
    assert!(environment[0].1.starts_with("glibc.malloc.check=1:glibc.cpu.hwcaps=-AVX,-AVX2,"), "{environment:?}");
    assert_eq!(environment[0].1.matches("hwcaps").count(), 1);
    let machine = of_program(&environment, &GLIBC);
    assert!(machine.cpu_features.iter().all(|feature| PORTABLE.contains(&feature.as_str())), "{machine:?}");
    assert!(machine.cpu_features.contains("sse2") && !machine.measured_state);
    let oldest = Machine { cpu_features: PORTABLE.map(str::to_owned).into(), xsave: Vec::new(), ..Machine::this() };
    assert_eq!(machine.unfit(&oldest), None);
    let newest = Machine { xsave: vec![(2, 576, 256), (5, 1088, 64)], ..Machine::this() };
    assert_eq!(Machine { xsave: Vec::new(), ..machine }.unfit(&newest), None);
}

#[test]
fn only_the_lazy_linker_of_glibc_measures_the_state() {
    let mask = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-XSAVE,-XSAVEC".to_owned());
    let now = |value: &str| ("LD_BIND_NOW", value.to_owned());
    for (environment, mapped, is_measured) in [
        (vec![], &GLIBC[..], true),
        (vec![now("")], &GLIBC, true),
        (vec![now("1")], &GLIBC, false),
        (vec![mask.clone()], &GLIBC, false),
        (vec![], &OLDER_GLIBC, true),
        (vec![], &["/bin/static"], false),
        (vec![], &["/lib/ld-musl-x86_64.so.1"], false),
    ] {
        assert_eq!(of_program(&environment, mapped).measured_state, is_measured, "{environment:?} {mapped:?}");
    }
}

#[test]
fn what_does_not_fit_is_told_with_the_way_out() {
    let there = Machine { host: "nodeb".to_owned(), ..with(&["sse2"]) };
    let (what, advice) = with(&["sse2", "avx2"]).unfit(&there).unwrap();
    assert!(what.contains("nodeb lacks: avx2") && advice.contains("run --portable"), "{what}; {advice}");
    let small = Machine { xsave: Vec::new(), cpu_features: BTreeSet::new(), ..Machine::this() };
    let large = Machine { xsave: vec![(5, 1088, 64)], ..there.clone() };
    let (what, advice) = small.unfit(&large).unwrap();
    assert!(what.contains("components [5]") && advice.contains("run --portable"), "{what}; {advice}");
    assert_eq!(Machine { measured_state: false, ..small.clone() }.unfit(&large), None);
    assert_eq!(small.unfit(&small), None);
}

/// An image of an older version does not say.
#[test]
fn a_machine_that_says_nothing_of_its_state_measures_it() {
    let mut value = serde_json::to_value(Machine { measured_state: false, ..Machine::this() }).unwrap();
    value.as_object_mut().unwrap().remove("measured_state").unwrap();
    assert!(serde_json::from_value::<Machine>(value).unwrap().measured_state);
}
