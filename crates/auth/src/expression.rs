//! What a parsed CEL expression contains: its free variables and its loops.

use std::collections::BTreeSet;

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr};
use cel::parser::Expression;

/// The contents of one expression.
#[derive(Debug, Default)]
pub(crate) struct ExpressionContents<'a> {
    /// The variables that no enclosing macro binds.
    pub(crate) free_variables: BTreeSet<&'a str>,
    /// The macros that run over a list or map, nested ones included.
    pub(crate) loops: usize,
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
            }
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
