//! The program `s3-emulator`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use jreg_testkit::s3::S3Client;

use crate::support::*;

#[tokio::test]
async fn the_program_says_in_one_line_how_to_get_in() {
    let mut program = Program::start(&[
        "--listen=127.0.0.1:0",
        "--bucket=pail",
        "--latency-ms=1",
        "--equal-parts",
        "--conditions=ignored",
        "--conditional-delete=refused",
    ]);
    let line = program.line();
    let said = |name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap().to_owned()
    };
    let endpoint = said("http://");
    let storage = format!("s3://pail/?endpoint=http://{endpoint}&path_style=true");
    assert_eq!(said("storage="), storage);
    let client = S3Client {
        address: endpoint.parse().unwrap(),
        bucket: "pail".to_owned(),
        access_key: said("access_key="),
        secret_key: said("secret_key="),
    };
    put(&client, "k", "v").await;
    let create = request(&client, "PUT", "k").header("If-None-Match", "*").body("w");
    assert_eq!(ask(&client, create).await.status, 200);
    let delete = request(&client, "DELETE", "k").header("If-Match", "*");
    refused(&ask(&client, delete).await, 501, "NotImplemented");
}

struct Program(Child);

impl Program {
    fn start(options: &[&str]) -> Self {
        let program = env!("CARGO_BIN_EXE_s3-emulator");
        let child = Command::new(program).args(options).stdout(Stdio::piped()).spawn();
        Self(child.unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
