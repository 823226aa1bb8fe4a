//! The macro that makes the compiler report why a function is not a handler.

/// Returns an argument for a handler that `debug_handler!` checks and does not call.
#[doc(hidden)]
#[must_use]
pub fn argument<T>() -> T {
    unreachable!("`debug_handler!` calls no handler")
}

/// Makes the compiler report why a function is not a handler: which argument is not an extractor,
/// that the return type is not a reply, or which value makes the future not `Send`, for example a
/// `MutexGuard` that is held across an `.await`.
///
/// Put the macro around the function. It does not change the function. Options come first:
///
/// - `on_connect,` checks a connect handler.
/// - `typed,` checks the handler of a [`TypedEvent`](crate::TypedEvent), which is its first
///   argument.
/// - `state = Type,` sets the type of the namespace's state, and follows the other option.
///
/// ```
/// use axum::extract::State;
/// use tower_socketio::{Data, ErrorReply, Socket, debug_handler};
///
/// debug_handler! {
///     /// Sends the text to all clients.
///     async fn say(socket: Socket, Data(text): Data<String>) {}
/// }
///
/// debug_handler! {
///     state = u32,
///     pub async fn more(State(n): State<u32>) -> u32 {
///         n + 1
///     }
/// }
///
/// debug_handler! {
///     on_connect,
///     async fn connect(headers: axum::http::HeaderMap) -> Result<(), ErrorReply> {
///         Ok(())
///     }
/// }
///
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Confirm { question: String }
/// # impl tower_socketio::TypedEvent for Confirm {
/// #     const NAME: &'static str = "confirm";
/// #     type Reply = bool;
/// # }
/// debug_handler! {
///     typed,
///     async fn confirm(Confirm { question }: Confirm, socket: Socket) -> bool {
///         question.ends_with('?')
///     }
/// }
/// ```
#[macro_export]
macro_rules! debug_handler {
    (typed, state = $state:ty, $($function:tt)*) => {
        $crate::debug_handler!(@ [typed] [$state] $($function)*);
    };
    (typed, $($function:tt)*) => {
        $crate::debug_handler!(@ [typed] [()] $($function)*);
    };
    (on_connect, state = $state:ty, $($function:tt)*) => {
        $crate::debug_handler!(@ [connect] [$state] $($function)*);
    };
    (on_connect, $($function:tt)*) => {
        $crate::debug_handler!(@ [connect] [()] $($function)*);
    };
    (state = $state:ty, $($function:tt)*) => {
        $crate::debug_handler!(@ [event] [$state] $($function)*);
    };
    (@ [$kind:ident] [$state:ty]
        $(#[$attr:meta])*
        $vis:vis async fn $name:ident($($args:tt)*) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$attr])*
        $vis async fn $name($($args)*) $(-> $ret)? $body

        const _: () = {
            #[allow(dead_code, reason = "it is checked and never called")]
            fn checks() {
                $crate::debug_handler!(@args [$kind] [$state] $($args)*);
                $crate::debug_handler!(@reply [$kind] [$($ret)?] $($args)*);
                $crate::debug_handler!(@send [$name] [] $($args)*);
            }
        };
    };
    // A macro cannot match a pattern before a colon, so it skips all tokens up to the type.
    (@args [$kind:ident] [$state:ty]) => {};
    (@args [typed] [$state:ty] : $ty:ty $(, $($rest:tt)*)?) => {
        $crate::debug_handler!(@check [typed] [$state] [$ty]);
        $crate::debug_handler!(@args [event] [$state] $($($rest)*)?);
    };
    (@args [$kind:ident] [$state:ty] : $ty:ty, $($rest:tt)*) => {
        $crate::debug_handler!(@check [$kind] [$state] [$ty]);
        $crate::debug_handler!(@args [$kind] [$state] $($rest)*);
    };
    (@args [$kind:ident] [$state:ty] : $ty:ty) => {
        $crate::debug_handler!(@check [$kind] [$state] [$ty]);
    };
    (@args [$kind:ident] [$state:ty] $skipped:tt $($rest:tt)*) => {
        $crate::debug_handler!(@args [$kind] [$state] $($rest)*);
    };
    (@check [event] [$state:ty] [$ty:ty]) => {{
        fn check<T: $crate::extract::FromEvent<$state>>() {}
        check::<$ty>()
    }};
    (@check [connect] [$state:ty] [$ty:ty]) => {{
        fn check<T: $crate::extract::FromConnect<$state, M>, M>() {}
        check::<$ty, _>()
    }};
    (@check [typed] [$state:ty] [$ty:ty]) => {{
        fn check<T: $crate::TypedEvent>() {}
        check::<$ty>()
    }};
    (@reply [typed] [$($ret:ty)?] : $ty:ty $(, $($rest:tt)*)?) => {{
        fn check<E: $crate::TypedEvent, T: $crate::private::IntoTypedReply<E::Reply>>() {}
        #[allow(unused_parens, reason = "without a type they are `()`")]
        check::<$ty, ($($ret)?)>()
    }};
    (@reply [typed] [$($ret:ty)?] $skipped:tt $($rest:tt)*) => {
        $crate::debug_handler!(@reply [typed] [$($ret)?] $($rest)*);
    };
    (@reply [$kind:ident] [] $($args:tt)*) => {};
    (@reply [$kind:ident] [$ret:ty] $($args:tt)*) => {{
        fn check<T: $crate::IntoReply>() {}
        check::<$ret>()
    }};
    (@send [$name:ident] [$($given:tt)*]) => {{
        fn check<F: ::core::future::Future + ::core::marker::Send>(_: F) {}
        check($name($($given)*))
    }};
    (@send [$name:ident] [$($given:tt)*] : $ty:ty $(, $($rest:tt)*)?) => {
        $crate::debug_handler!(
            @send [$name] [$($given)* $crate::private::argument::<$ty>(),] $($($rest)*)?
        );
    };
    (@send [$name:ident] [$($given:tt)*] $skipped:tt $($rest:tt)*) => {
        $crate::debug_handler!(@send [$name] [$($given)*] $($rest)*);
    };
    ($($function:tt)*) => {
        $crate::debug_handler!(@ [event] [()] $($function)*);
    };
}
