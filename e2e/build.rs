//! Builds the program of the lab's pods. A target of this package could not be static while `eyot` is not: the flag is
//! one of a whole cargo run. So rustc is called here, and `eyot` carries the result.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=pod/main.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join("eyot-pod");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "eyot_pod", "--target", &variable("TARGET")]);
    // A static C library comes with the C compiler's own headers.
    rustc.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let status = rustc.arg("-o").arg(&program).arg("pod/main.rs").status().expect("cargo's rustc runs");
    assert!(status.success(), "rustc could not build pod/main.rs statically: {status}");
}
