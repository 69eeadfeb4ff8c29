//! The sandbox program: the demo, and a stack to work with by hand.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use keyutil::program::{self, LogArgs};
use sandbox::{
    demo,
    fleet::{self, FleetOptions},
    provision,
    soak::{self, SoakOptions},
    up,
};

/// A Temporal Server with mTLS and authorization on this machine
#[derive(Parser)]
#[command(version, after_help = program::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run a workflow over mTLS with a minted token, show that wrong credentials are refused, and
    /// replace every credential while workflows run
    Demo {
        #[command(flatten)]
        provision: provision::Options,

        /// Keep the folder with certificates, keys and logs
        #[arg(long, conflicts_with = "soak")]
        keep: bool,

        /// Run `soak` instead, with its defaults
        #[arg(long)]
        soak: bool,

        /// `cargo demo -- --soak` comes with two dashes more
        #[arg(last = true, hide = true, value_parser = ["--soak"])]
        dashed: Option<String>,
    },
    /// Run workflows for some time while every credential rotates again and again and the server
    /// ends connections by age; write a result and a picture
    ///
    /// Exit code 0 means: no workflow failed, no call was refused, and every credential rotated at
    /// least twice. Each new credential was in use, and the old signing key and CAs were refused.
    Soak {
        #[command(flatten)]
        provision: provision::Options,

        #[command(flatten)]
        soak: SoakOptions,
    },
    /// Run many workers, kill the server and start it again, then replace every credential; report
    /// how long the slowest worker took
    ///
    /// Exit code 0 means: no workflow failed, and within 10 s after each of these events every
    /// worker was ready, had an answer from the server, and used the new credential.
    Fleet {
        #[command(flatten)]
        provision: provision::Options,

        #[command(flatten)]
        fleet: FleetOptions,
    },
    /// Run a server until Ctrl-C, with an environment file for other terminals
    Up {
        #[command(flatten)]
        provision: provision::Options,

        /// Namespace to register
        #[arg(short, long, default_value = "default")]
        namespace: String,

        /// Where to link the environment file
        #[arg(long, default_value = "certs/sandbox.env", value_name = "FILE")]
        env_file: PathBuf,
    },
    /// Find, download or build the server, and print where it is
    Provision {
        #[command(flatten)]
        provision: provision::Options,
    },
}

/// The defaults of `soak`.
#[derive(Parser)]
struct SoakDefaults {
    #[command(flatten)]
    options: SoakOptions,
}

/// The exit code that a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Arguments = match program::arguments() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // The demo prints its steps itself. The server of a fleet dies, and the SDK would warn of each
    // call that it repeats meanwhile.
    let level = match arguments.command {
        Command::Fleet { .. } => "error",
        _ => "warn",
    };
    let logging = arguments.log.start_at(level);
    // `sandbox up` runs until Ctrl-C, so that is a success there.
    let when_interrupted = match arguments.command {
        Command::Up { .. } => ExitCode::SUCCESS,
        _ => ExitCode::from(INTERRUPTED),
    };
    let running = program::run("sandbox", async {
        logging?;
        run(arguments.command).await
    });
    tokio::select! {
        code = running => code,
        signal = program::interrupted() => {
            eprintln!("sandbox: {signal}: cleaned up");
            when_interrupted
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo {
            provision,
            keep,
            soak: false,
            dashed: None,
        } => demo::run(&provision, keep).await,
        Command::Demo { provision, .. } => {
            let defaults = SoakDefaults::parse_from(["soak"]);
            soak::run(&provision, &defaults.options).await
        }
        Command::Soak { provision, soak } => soak::run(&provision, &soak).await,
        Command::Fleet { provision, fleet } => fleet::run(&provision, &fleet).await,
        Command::Up {
            provision,
            namespace,
            env_file,
        } => match up::run(&provision, &namespace, &env_file).await? {},
        Command::Provision { provision } => {
            let progress = provision::Terminal::new();
            let server = provision::temporal_server(&provision, &progress).await?;
            program::print_line(format_args!("{}", server.display()))?;
            Ok(())
        }
    }
}
