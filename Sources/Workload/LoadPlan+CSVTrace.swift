import Foundation

extension LoadPlan {
    static func readCSV(_ lines: [TraceLine], _ file: String, _ options: TraceOptions) throws(TraceError) -> ([PlannedRequest], String) {
        let names = lines[0].text.split(separator: ",", omittingEmptySubsequences: false).map {
            $0.trimmingCharacters(in: .whitespaces).lowercased()
        }
        func column(_ wanted: [String]) -> Int? { names.firstIndex { wanted.contains($0) } }
        guard let time = column(["timestamp"]), let input = column(["contexttokens", "request tokens"]),
            let output = column(["generatedtokens", "response tokens"])
        else {
            throw TraceError(
                file, line: lines[0].number, "expected the columns of Azure's or BurstGPT's traces, found '\(lines[0].text)'")
        }
        var requests: [PlannedRequest] = []
        for (row, line) in lines.enumerated().dropFirst().dropFirst(options.skip).prefix(options.limit) {
            let cells = line.text.split(separator: ",", omittingEmptySubsequences: false).map { $0.trimmingCharacters(in: .whitespaces) }
            guard cells.count > max(time, input, output), let seconds = seconds(cells[time]), let prompt = Int(cells[input]),
                let answer = Int(cells[output]), (0...longestTokens).contains(prompt), (0...longestTokens).contains(answer)
            else { throw TraceError(file, line: line.number, "expected a time and two lengths, found '\(line.text)'") }
            requests.append(
                PlannedRequest(
                    offsetNanoseconds: nanoseconds(seconds, perUnit: 1e9, options),
                    user: [PromptBlock(id: 1 << 62 | UInt64(row), tokens: max(1, scaled(prompt, options)))],
                    outputTokens: scaled(answer, options)))
        }
        requests.sort { $0.offsetNanoseconds < $1.offsetNanoseconds }
        return (requests, names.contains("contexttokens") ? "azure" : "burstgpt")
    }

    /// Seconds, or a date with a time of day and, perhaps, what that is ahead of UTC (RFC 3339, with a blank for its T as well); dates count
    /// from the year 2001, which keeps their fractions exact enough.
    private static func seconds(_ text: String) -> Double? {
        if let value = Double(text) { return value.isFinite ? value : nil }
        let halves = text.split(whereSeparator: { $0 == " " || $0 == "T" })
        guard halves.count == 2 else { return nil }
        var clock = halves[1]
        var ahead = 0.0
        if clock.hasSuffix("Z") {
            clock = clock.dropLast()
        } else if let sign = clock.lastIndex(where: { $0 == "+" || $0 == "-" }) {
            let zone = clock[clock.index(after: sign)...].split(separator: ":", omittingEmptySubsequences: false).map { Int($0) ?? -1 }
            guard zone.count == 2, (0...23).contains(zone[0]), (0...59).contains(zone[1]) else { return nil }
            ahead = Double(zone[0] * 3_600 + zone[1] * 60) * (clock[sign] == "-" ? -1 : 1)
            clock = clock[..<sign]
        }
        let day = halves[0].split(separator: "-", omittingEmptySubsequences: false).map { Int($0) ?? -1 }
        let time = clock.split(separator: ":", omittingEmptySubsequences: false)
        guard day.count == 3, time.count == 3, (1...9_999).contains(day[0]), (1...12).contains(day[1]), (1...31).contains(day[2]),
            let hour = Int(time[0]), (0...23).contains(hour), let minute = Int(time[1]), (0...59).contains(minute),
            let second = Double(time[2]), (0..<61).contains(second)
        else { return nil }
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = .gmt
        let date = calendar.date(from: DateComponents(year: day[0], month: day[1], day: day[2], hour: hour, minute: minute))
        return date.map { $0.timeIntervalSinceReferenceDate + second - ahead }
    }
}
