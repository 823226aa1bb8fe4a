//! Checks whether a value has a type.

use std::collections::BTreeMap;

use serde_json::Value;

use super::model::{Documented, Type};
use super::views::Args;

/// Checks the arguments of an event, as JSON with placeholders for bytes.
///
/// # Errors
///
/// Returns the place of the first value that does not have its type.
pub(super) fn check_args(
    values: &[Value],
    args: &Args,
    definitions: &BTreeMap<String, Documented>,
) -> Result<(), String> {
    let shape = Shape(definitions);
    let types: Vec<&Type> = match args {
        Args::One(ty) => vec![ty],
        Args::Spread(elements) => elements.iter().map(|element| &element.ty).collect(),
    };
    if values.len() != types.len() {
        return Err(format!(
            "the number of arguments, {} and not {}",
            values.len(),
            types.len()
        ));
    }
    for (n, (value, ty)) in values.iter().zip(types).enumerate() {
        let name = match args {
            Args::One(_) => "data".to_owned(),
            Args::Spread(_) => format!("arg{}", n + 1),
        };
        shape
            .check(value, ty)
            .map_err(|path| format!("`{name}{path}`"))?;
    }
    Ok(())
}

struct Shape<'a>(&'a BTreeMap<String, Documented>);

impl Shape<'_> {
    /// Fails with the path to what does not fit. More properties than declared fit, as they do not
    /// hurt a client.
    fn check(&self, value: &Value, ty: &Type) -> Result<(), String> {
        let fits = match ty {
            Type::Unknown => true,
            Type::Never | Type::Undefined => false,
            Type::Null => value.is_null(),
            Type::Boolean => value.is_boolean(),
            Type::Number => value.is_number(),
            Type::String => value.is_string(),
            Type::Literal(literal) => value == literal,
            Type::Bytes(_) => value.get("_placeholder") == Some(&Value::Bool(true)),
            Type::Ref(name) => {
                return match self.0.get(name) {
                    Some(definition) => self.check(value, &definition.ty),
                    None => Ok(()),
                };
            }
            Type::Array(inner) => return self.elements(value, |_| Some(inner), None),
            Type::Tuple(elements) => {
                let element = |n: usize| elements.get(n).map(|element| &element.ty);
                return self.elements(value, element, Some(elements.len()));
            }
            Type::Record(inner) if **inner == Type::Never => value.is_object(),
            Type::Record(_) | Type::Object(..) => return self.object(value, ty),
            Type::Union(types) => types.iter().any(|each| self.check(value, &each.ty).is_ok()),
            Type::Intersection(types) => {
                return types.iter().try_for_each(|part| self.check(value, part));
            }
        };
        if fits { Ok(()) } else { Err(String::new()) }
    }

    fn elements<'a>(
        &self,
        value: &Value,
        ty: impl Fn(usize) -> Option<&'a Type>,
        len: Option<usize>,
    ) -> Result<(), String> {
        let values = value.as_array().ok_or("")?;
        if len.is_some_and(|len| len != values.len()) {
            return Err(String::new());
        }
        for (n, value) in values.iter().enumerate() {
            if let Some(ty) = ty(n) {
                self.check(value, ty)
                    .map_err(|path| format!("[{n}]{path}"))?;
            }
        }
        Ok(())
    }

    fn object(&self, value: &Value, ty: &Type) -> Result<(), String> {
        let values = value.as_object().ok_or("")?;
        let (properties, rest) = match ty {
            Type::Object(properties, rest) => (properties.as_slice(), rest.as_deref()),
            Type::Record(rest) => (&[][..], Some(&**rest)),
            _ => return Ok(()),
        };
        for property in properties {
            match values.get(&property.name) {
                Some(value) => self
                    .check(value, &property.value.ty)
                    .map_err(|path| format!(".{}{path}", property.name))?,
                None if property.optional => {}
                None => return Err(format!(".{}", property.name)),
            }
        }
        let Some(rest) = rest else {
            return Ok(());
        };
        for (name, value) in values {
            if !properties.iter().any(|property| property.name == *name) {
                self.check(value, rest)
                    .map_err(|path| format!(".{name}{path}"))?;
            }
        }
        Ok(())
    }
}
