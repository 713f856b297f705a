import ArgumentParser
import EngineModel
import Foundation
import Reporting

/// `swiftlet stub validate`: the engine model's step times against published measurements.
struct StubValidateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "validate", abstract: "Compare the presets' times with published measurements, point by point.",
        discussion: """
            Sources: DistServe's and Splitwise's simulator profiles, Vidur's operator profiles, llm-d's published throughput. \
            "calibrated" marks the series that constants of the model were read off; the others are held out.
            """)

    @Flag(help: "Print one line per source only.")
    var summary = false

    func run() {
        let points = Validation.points
        if !summary {
            var table = TextTable(header: ["series: point", "unit", "predicted", "published", "error"])
            for point in points {
                table.rows.append([
                    "\(point.series): \(point.label)", point.unit, Self.figure(point.predicted), Self.figure(point.published),
                    Self.percent(point.error),
                ])
            }
            print(table.text + "\n")
        }
        var table = TextTable(header: ["series", "use", "points", "mean error", "worst"])
        for summary in Validation.summaries(of: points) {
            table.rows.append([
                summary.series, summary.isCalibrating ? "calibrated" : "held out", "\(summary.count)",
                Self.percent(summary.meanError, signed: false), Self.percent(summary.worstError),
            ])
        }
        let heldOut = Validation.heldOut
        table.rows.append([
            "held out", "", "\(heldOut.count)", Self.percent(Validation.meanError(of: heldOut), signed: false), "",
        ])
        table.rows.append(["all", "", "\(points.count)", Self.percent(Validation.meanError(of: points), signed: false), ""])
        print(table.text)
    }

    private static func figure(_ value: Double) -> String { String(format: value < 1_000 ? "%.1f" : "%.0f", value) }

    private static func percent(_ value: Double, signed: Bool = true) -> String {
        String(format: signed ? "%+.1f %%" : "%.1f %%", 100 * value)
    }
}
