/// Where mechanisms tell an operator what metrics cannot say: which file is broken, which certificate is not accepted. Rare by the caller's
/// care, since a line is text. Whoever assembles the program overrides it; as it is here it says nothing.
// Unchecked because it is open: it has no state, and subclasses must be safe to call from any thread.
open class OperatorLog: @unchecked Sendable {
    public init() {}
    open func notice(_ text: String) {}
    open func warning(_ text: String) {}
}
