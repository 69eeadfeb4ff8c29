//! The picture of a soak: throughput, latency, and each rotation on a line of its own.

use std::{error::Error, ops::Range, path::Path, time::Duration};

use plotters::prelude::*;

use super::record::{Sample, quantile};
use crate::rotations::{Credential, Rotation};

const SIZE: (u32, u32) = (1200, 760);
const THROUGHPUT: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const MEDIAN: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const SLOW: RGBColor = RGBColor(0xff, 0x7f, 0x0e);
const FAILED: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const TICK: RGBColor = RGBColor(0x44, 0x44, 0x44);

/// Writes the picture as SVG.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(
    path: &Path,
    duration: Duration,
    samples: &[Sample],
    rotations: &[Rotation],
) -> Result<(), Box<dyn Error>> {
    let buckets = Buckets::of(duration, samples);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (throughput, rest) = root.split_vertically(240);
    let (latency, lanes) = rest.split_vertically(260);
    let seconds = 0.0..duration.as_secs_f64().max(1.0);
    draw_throughput(&throughput, seconds.clone(), &buckets)?;
    draw_latency(&latency, seconds.clone(), &buckets)?;
    draw_lanes(&lanes, seconds, samples, rotations)?;
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel<'a, 'b>(area: &'a Area<'b>, caption: &str) -> ChartBuilder<'a, 'static, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart
        .caption(caption, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(24)
        .y_label_area_size(130);
    chart
}

fn draw_throughput(
    area: &Area<'_>,
    seconds: Range<f64>,
    buckets: &Buckets,
) -> Result<(), Box<dyn Error>> {
    let most = buckets.rates().fold(1.0, f64::max);
    let mut chart =
        panel(area, "workflows per second").build_cartesian_2d(seconds, 0.0..most * 1.15)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    let line = buckets.times().zip(buckets.rates());
    chart.draw_series(LineSeries::new(line, &THROUGHPUT))?;
    Ok(())
}

fn draw_latency(
    area: &Area<'_>,
    seconds: Range<f64>,
    buckets: &Buckets,
) -> Result<(), Box<dyn Error>> {
    let slowest = buckets.quantile(1.0).into_iter();
    let most = slowest.map(|(_, latency)| latency).fold(1.0, f64::max);
    let mut chart = panel(area, "latency in milliseconds, logarithmic")
        .build_cartesian_2d(seconds, (10.0..most * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    for (share, name, color) in [
        (0.5, "median", MEDIAN),
        (0.95, "95 %", SLOW),
        (1.0, "worst", FAILED),
    ] {
        chart
            .draw_series(LineSeries::new(buckets.quantile(share), &color))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

fn draw_lanes(
    area: &Area<'_>,
    seconds: Range<f64>,
    samples: &[Sample],
    rotations: &[Rotation],
) -> Result<(), Box<dyn Error>> {
    // From top to bottom: the credentials, and what failed.
    let lanes = Credential::ALL.len() + 1;
    let mut chart = panel(area, "rotations, each seen to take effect; and failures")
        .x_label_area_size(40)
        .build_cartesian_2d(seconds, 0.0..lanes as f64)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_label_formatter(&whole)
        .x_desc("seconds")
        .y_labels(0)
        .draw()?;
    let left = chart.plotting_area().get_x_range().start;
    let mut lane = |number: usize, name: &str, color: RGBColor, times: Vec<f64>| {
        let middle = number as f64 + 0.5;
        let ticks = times.into_iter().map(|time| {
            PathElement::new(
                [(time, middle - 0.32), (time, middle + 0.32)],
                color.stroke_width(2),
            )
        });
        chart.draw_series(ticks)?;
        let (x, y) = chart.backend_coord(&(left, middle));
        let (columns, rows) = area.get_pixel_range();
        area.draw(&Text::new(
            name.to_owned(),
            (x - columns.start - 128, y - rows.start - 7),
            ("sans-serif", 14).into_font().color(&color),
        ))?;
        Ok::<_, Box<dyn Error>>(())
    };
    let failures = samples.iter().filter(|sample| sample.failure.is_some());
    let failures: Vec<_> = failures.map(|sample| sample.ended.as_secs_f64()).collect();
    lane(0, &format!("failed ({})", failures.len()), FAILED, failures)?;
    for (number, credential) in (1..).zip(Credential::ALL.into_iter().rev()) {
        let times = rotations
            .iter()
            .filter(|rotation| rotation.credential == credential);
        let times: Vec<_> = times.map(|rotation| rotation.at.as_secs_f64()).collect();
        let title = format!("{} ({})", credential.name(), times.len());
        lane(number, &title, TICK, times)?;
    }
    Ok(())
}

fn whole(number: &f64) -> String {
    format!("{number:.0}")
}

/// The workflows that ended well, by spans of time.
struct Buckets {
    /// In seconds.
    span: f64,
    /// Latencies in milliseconds, ascending.
    latencies: Vec<Vec<f64>>,
}

impl Buckets {
    fn of(duration: Duration, samples: &[Sample]) -> Self {
        // About as many as the picture can show.
        let span = (duration.as_secs_f64() / 300.0).max(1.0);
        let count = (duration.as_secs_f64() / span).ceil() as usize;
        let mut latencies = vec![Vec::new(); count.max(1)];
        for sample in samples.iter().filter(|sample| sample.failure.is_none()) {
            let number = (sample.ended.as_secs_f64() / span) as usize;
            // Those that ended after the last start are not part of the throughput.
            if let Some(bucket) = latencies.get_mut(number) {
                bucket.push((sample.latency.as_secs_f64() * 1000.0).max(1.0));
            }
        }
        for bucket in &mut latencies {
            bucket.sort_by(f64::total_cmp);
        }
        Self { span, latencies }
    }

    fn times(&self) -> impl Iterator<Item = f64> {
        (0..self.latencies.len()).map(|number| (number as f64 + 0.5) * self.span)
    }

    fn rates(&self) -> impl Iterator<Item = f64> {
        self.latencies
            .iter()
            .map(|bucket| bucket.len() as f64 / self.span)
    }

    /// Where nothing ended there is no point.
    fn quantile(&self, share: f64) -> Vec<(f64, f64)> {
        let points = self.times().zip(&self.latencies);
        points
            .filter_map(|(time, bucket)| Some((time, quantile(bucket, share)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_every_rotation_and_every_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soak.svg");
        let samples: Vec<_> = (0..500)
            .map(|number| Sample {
                ended: Duration::from_millis(number * 20),
                latency: Duration::from_millis(20 + number % 90),
                failure: (number % 250 == 249).then(|| "refused".to_owned()),
            })
            .collect();
        let rotations: Vec<_> = (0..3)
            .map(|number| Rotation {
                at: Duration::from_secs(3 * number),
                credential: Credential::SigningKey,
                before: "a".into(),
                now: "b".into(),
                seen: "c",
                seen_after: Duration::ZERO,
            })
            .collect();

        draw(&path, Duration::from_secs(10), &samples, &rotations).unwrap();

        let picture = std::fs::read_to_string(path).unwrap();
        for words in [
            "signing key (3)",
            "client CA (0)",
            "failed (2)",
            "workflows per second",
        ] {
            assert!(picture.contains(words), "no `{words}`");
        }
        let red = format!("#{:02X}{:02X}{:02X}", FAILED.0, FAILED.1, FAILED.2);
        assert!(picture.matches(&red).count() >= 2, "{picture}");
    }
}
