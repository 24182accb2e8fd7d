//! Builds the program of the lab's pods. A target of this package could not be static while `eyot` is not: the flag is
//! one of a whole cargo run. So rustc is called here, and `eyot` carries the result.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=pod/main.rs");
    println!("cargo::rerun-if-changed=pod/tar.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let program = PathBuf::from(variable("OUT_DIR")).join("eyot-pod");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "eyot_pod", "--target", &variable("TARGET")]);
    // Debian ships a static C library with the headers of the C compiler; others have it in a package of its own.
    rustc.args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    let built =
        rustc.arg("-o").arg(&program).arg("pod/main.rs").status().is_ok_and(|status| status.success());
    if !built {
        // Only the lab needs it: the demo and the tests without root must build on a machine that cannot link this.
        println!(
            "cargo::warning=no static C library (libc.a) here: `eyot lab` will have no image for its pods"
        );
        std::fs::write(&program, "").expect("cargo's folder takes files");
    }
}
