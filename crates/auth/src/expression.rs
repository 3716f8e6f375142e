//! What a parsed CEL expression contains: its free variables, its loops, and what it reads of an identity.

use std::collections::BTreeSet;

use cel::common::ast::operators::{IN, INDEX};
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use cel::parser::Expression;

use crate::tested::TestedClaims;

/// The variable with the claims and groups of an identity.
const IDENTITY: &str = "identity";

/// The contents of one expression.
#[derive(Debug, Default)]
pub(crate) struct ExpressionContents<'a> {
    /// The variables that no enclosing macro binds.
    pub(crate) free_variables: BTreeSet<&'a str>,
    /// The macros that run over a list or map, nested ones included.
    pub(crate) loops: usize,
    /// The claims and groups that it reads.
    pub(crate) tested: TestedClaims,
    bound: Vec<&'a str>,
}

impl<'a> ExpressionContents<'a> {
    pub(crate) fn of(expression: &'a Expression) -> Self {
        let mut contents = Self::default();
        contents.visit(expression);
        contents
    }

    fn visit(&mut self, expression: &'a Expression) {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => {
                if !self.bound.contains(&name.as_str()) {
                    self.free_variables.insert(name);
                }
                if name == IDENTITY {
                    self.tested.add_all_claims();
                    self.tested.add_all_groups();
                }
            }
            Expr::Call(call) if self.visit_lookup(call) => {}
            Expr::Select(_) if self.visit_identity(&expression.expr) => {}
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.visit(target));
                call.args.iter().for_each(|argument| self.visit(argument));
            }
            Expr::Comprehension(comprehension) => self.visit_comprehension(comprehension),
            Expr::List(list) => list.elements.iter().for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.visit_entry(&entry.expr)),
            Expr::Select(select) => self.visit(&select.operand),
            Expr::Struct(fields) => {
                fields.entries.iter().for_each(|entry| self.visit_entry(&entry.expr));
            }
        }
    }

    /// `identity.claims.NAME`, and other fields of the identity.
    fn visit_identity(&mut self, expression: &'a Expr) -> bool {
        let Expr::Select(select) = expression else { return false };
        match (field_of_identity(&select.operand.expr), field_of_identity(expression)) {
            (Some("claims"), _) => self.tested.add_claim(&select.field),
            (_, Some("claims")) => self.tested.add_all_claims(),
            (_, Some("groups")) => self.tested.add_all_groups(),
            (_, Some(_)) => {}
            (_, None) => return false,
        }
        self.free_variables.insert(IDENTITY);
        true
    }

    /// `identity.claims["NAME"]`, `"NAME" in identity.claims` and `"NAME" in identity.groups`.
    fn visit_lookup(&mut self, call: &'a CallExpr) -> bool {
        let [first, second] = &call.args[..] else { return false };
        let (container, name) = match call.func_name.as_str() {
            INDEX => (first, second),
            IN => (second, first),
            _ => return false,
        };
        let Expr::Literal(LiteralValue::String(name)) = &name.expr else { return false };
        match field_of_identity(&container.expr) {
            Some("claims") => self.tested.add_claim(name.inner()),
            Some("groups") if call.func_name == IN => self.tested.add_group(name.inner()),
            _ => return false,
        }
        self.free_variables.insert(IDENTITY);
        true
    }

    fn visit_entry(&mut self, entry: &'a EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
        }
    }

    /// The range and the first accumulator are outside of the scope that the macro opens.
    fn visit_comprehension(&mut self, comprehension: &'a ComprehensionExpr) {
        self.loops += 1;
        self.visit(&comprehension.iter_range);
        self.visit(&comprehension.accu_init);
        let outer = self.bound.len();
        self.bound.push(&comprehension.accu_var);
        self.visit(&comprehension.result);
        self.bound.push(&comprehension.iter_var);
        self.bound.extend(comprehension.iter_var2.as_deref());
        self.visit(&comprehension.loop_cond);
        self.visit(&comprehension.loop_step);
        self.bound.truncate(outer);
    }
}

/// The name of a field of the identity, if an expression is one.
fn field_of_identity(expression: &Expr) -> Option<&str> {
    let Expr::Select(select) = expression else { return None };
    match &select.operand.expr {
        Expr::Ident(name) if name == IDENTITY => Some(&select.field),
        _ => None,
    }
}
