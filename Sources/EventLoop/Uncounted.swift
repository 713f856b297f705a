/// `uncounted(object).use { … }` calls through a reference without counting it: for an object that is known to live for as long as the
/// call takes, because something holds it that does not let go of it meanwhile (a `let` of an object that lives, or the owner of the one
/// that asks). Swift would count up and down around each call, with atomic instructions: an eighth of the CPU of a proxied HTTP/2 request.
@_transparent
public func uncounted<Object: AnyObject>(_ object: Object) -> Unmanaged<Object> { .passUnretained(object) }

extension Unmanaged {
    @_transparent
    public func use<Result>(_ body: (Instance) -> Result) -> Result { _withUnsafeGuaranteedRef(body) }
}
