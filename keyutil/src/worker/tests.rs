use clap::Parser;
use temporalio_sdk::runtime::worker_tuner::{
    ResourceBasedTuner, ResourceBasedTunerOptions, SlotSupplier,
};

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    worker: WorkerArgs,
}

fn options(arguments: &[&str]) -> WorkerOptions {
    applied(arguments, WorkerOptions::new("queue").build())
}

fn applied(arguments: &[&str], options: WorkerOptions) -> WorkerOptions {
    let program = Program::parse_from([&["worker"], arguments].concat());
    program.worker.apply(options)
}

/// The limits of workflow tasks, activities, local activities and Nexus tasks.
fn slots(options: &WorkerOptions) -> [usize; 4] {
    let WorkerTuner::TunerHolder(holder) = &options.tuner else {
        panic!("{:?}", options.tuner);
    };
    [
        &holder.workflow_task_slot_supplier,
        &holder.activity_task_slot_supplier,
        &holder.local_activity_task_slot_supplier,
        &holder.nexus_task_slot_supplier,
    ]
    .map(|supplier| match supplier {
        SlotSupplier::FixedSize(fixed) => fixed.num_slots,
        other => panic!("{other:?}"),
    })
}

#[test]
fn without_flags_the_options_of_the_program_stay() {
    let mut mine = WorkerOptions::new("queue").build();
    mine.max_cached_workflows = 7;
    mine.workflow_task_poller_behavior = Some(PollerBehavior::SimpleMaximum(3));
    mine.max_worker_activities_per_second = Some(0.5);
    let options = applied(&[], mine);
    assert_eq!(slots(&options), [100; 4]);
    assert_eq!(options.max_cached_workflows, 7);
    assert_eq!(
        options.workflow_task_poller_behavior,
        Some(PollerBehavior::SimpleMaximum(3))
    );
    assert_eq!(options.activity_task_poller_behavior, None);
    assert_eq!(options.max_worker_activities_per_second, Some(0.5));
    assert_eq!(options.max_task_queue_activities_per_second, None);
}

#[test]
fn each_flag_sets_the_option_of_its_name() {
    let changed = |flag: &str, value: &str| options(&[flag, value]);
    for (flag, value, expected) in [
        ("--max-concurrent-workflow-tasks", "2", [2, 100, 100, 100]),
        ("--max-concurrent-activities", "1", [100, 1, 100, 100]),
        ("--max-concurrent-local-activities", "1", [100, 100, 1, 100]),
    ] {
        assert_eq!(slots(&changed(flag, value)), expected, "{flag}");
    }
    assert_eq!(
        changed("--max-cached-workflows", "0").max_cached_workflows,
        0
    );
    let auto = Some(Pollers::Auto.into());
    let workflow = |value| changed("--workflow-task-pollers", value).workflow_task_poller_behavior;
    assert_eq!(workflow("2").unwrap(), PollerBehavior::SimpleMaximum(2));
    assert_eq!(workflow("auto"), auto);
    let activity = |value| changed("--activity-task-pollers", value).activity_task_poller_behavior;
    assert_eq!(activity("1").unwrap(), PollerBehavior::SimpleMaximum(1));
    assert_eq!(activity("auto"), auto);
    let options = changed("--max-activities-per-second", "0.5");
    assert_eq!(options.max_worker_activities_per_second, Some(0.5));
    assert_eq!(options.max_task_queue_activities_per_second, None);
    let options = changed("--max-task-queue-activities-per-second", "200");
    assert_eq!(options.max_task_queue_activities_per_second, Some(200.0));
    assert_eq!(options.max_worker_activities_per_second, None);
}

#[test]
fn a_limit_replaces_a_resource_based_tuner() {
    let resource_based = ResourceBasedTuner::builder()
        .tuner_options(
            ResourceBasedTunerOptions::builder()
                .target_memory_usage(0.5)
                .target_cpu_usage(0.5)
                .build(),
        )
        .build();
    let mut mine = WorkerOptions::new("queue").build();
    mine.tuner = resource_based.into();
    let kept = applied(&["--max-cached-workflows", "5"], mine.clone());
    assert!(matches!(kept.tuner, WorkerTuner::ResourceBased(_)));
    let limited = applied(&["--max-concurrent-activities", "5"], mine);
    assert_eq!(slots(&limited), [100, 5, 100, 100]);
}

#[test]
fn values_that_the_sdk_refuses_are_refused_by_the_flag() {
    for (flag, value) in [
        ("--max-concurrent-workflow-tasks", "1"),
        ("--max-concurrent-activities", "0"),
        ("--max-concurrent-local-activities", "-1"),
        ("--max-cached-workflows", "many"),
        ("--max-concurrent-activities", "18446744073709551615"),
        ("--max-cached-workflows", "1000000000"),
        ("--workflow-task-pollers", "1"),
        ("--workflow-task-pollers", "AUTO"),
        ("--activity-task-pollers", "0"),
        ("--max-activities-per-second", "0"),
        ("--max-activities-per-second", "NaN"),
        ("--max-activities-per-second", "1e-10"),
        ("--max-task-queue-activities-per-second", "inf"),
        ("--max-task-queue-activities-per-second", "-1"),
    ] {
        let argument = format!("{flag}={value}");
        let Err(refused) = Program::try_parse_from(["worker", &argument]) else {
            panic!("{argument}");
        };
        assert!(refused.to_string().contains(flag), "{refused}");
    }
}
