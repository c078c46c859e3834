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
